"""LoRA on an embedding, as PEFT has it (lora_embedding_A [rank, vocabulary], lora_embedding_B [dim, rank])."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.adapters.variants.effect import Effect, Matrix
from graftwork.adapters.variants.factors import LoraFactors


@dataclass(frozen=True, slots=True)
class Embedding:
    """The weight [vocabulary, dim] changes by (b @ a).T; a is looked up, b multiplied."""

    pair: LoraFactors
    """a [rank, vocabulary], b [dim, rank] with the scale."""

    def delta(self, w0: Matrix) -> Matrix:
        """[vocabulary, dim]"""
        change: Matrix = self.pair.a.T.astype(w0.dtype) @ self.pair.b.T.astype(w0.dtype)
        return change

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """None: the factors are those of a look-up and not of a linear layer."""
        return None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank of an embedding."""
        return Effect(embedding=self.pair)
