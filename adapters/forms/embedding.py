"""LoRA on an embedding."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from graftwork.adapters.forms.form import Passing


@dataclass(frozen=True, slots=True)
class EmbeddingLowRank(Passing):
    """y += rows[ids] @ b, times the factor by which some embeddings multiply what they look up (Gemma)."""

    rows: Tensor
    """[vocabulary, rank]"""
    b: Tensor
    """[rank, dim]"""
    embed_scale: Tensor | None
    """A scalar."""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """x: [rows] ids; y: [rows, dim]"""
        change = functional.embedding(x, self.rows) @ self.b
        return y + (change if self.embed_scale is None else change * self.embed_scale)
