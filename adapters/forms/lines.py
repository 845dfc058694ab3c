"""A few rows or columns of a weight changed (S2FT, arXiv:2412.06289): gathered and scattered activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graftwork.adapters.forms.form import Passing


@dataclass(frozen=True, slots=True)
class RowDeltas(Passing):
    """y[:, indices] += x @ block.T"""

    indices: Tensor
    """[n] int64: output features."""
    block: Tensor
    """[n, in]"""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """[rows, out]"""
        return y.index_add(1, self.indices, x @ self.block.t())


@dataclass(frozen=True, slots=True)
class ColumnDeltas(Passing):
    """y += x[:, indices] @ block.T"""

    indices: Tensor
    """[n] int64: input features."""
    block: Tensor
    """[out, n]"""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """[rows, out]"""
        return y + x[:, self.indices] @ self.block.t()
