"""The exact sum of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftwork.adapters.algebra.algebra import cat
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.merge.method import Number, PerModel, merge_method


@merge_method("lora_cat", space="adapter", cites="https://arxiv.org/abs/2106.09685")
@dataclass(frozen=True, slots=True)
class LoraCat:
    """The exact weighted sum of the adapters' changes, by concatenation: the ranks add up.

    weight: the factor of each adapter's change

    PEFT's `cat`, exact up to float32. An adapter that lacks a module leaves it unchanged. Where the first adapter is
    rsLoRA, PEFT (0.21, in all its combinations) makes the result sqrt(rank) times too large; here it is the sum.

    Use it to add adapters up without any loss; lora_svd gives nearly the same at a lower rank. `task_arithmetic`,
    `linear`, `ties` and the other methods for models take adapters too, and work on the products b a of their factors.
    """

    weight: PerModel[Number] = (1.0,)
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def rank(self, ranks: Sequence[int]) -> int:
        """The sum of the ranks."""
        return sum(ranks)

    def merge(self, module: str, factors: Sequence[LoraFactors | None], seed: int) -> LoraFactors:
        """The factors side by side."""
        present = [(pair, weight) for pair, weight in zip(factors, self.weight, strict=True) if pair is not None]
        return cat([pair for pair, _ in present], [weight for _, weight in present])
