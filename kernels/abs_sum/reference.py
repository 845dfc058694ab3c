"""`abs_sum` in plain torch."""

from __future__ import annotations

from torch import Tensor

from graftwork.kernels.gram.reference import block_sums, differences


def abs_sum(out: Tensor, x: Tensor, base: Tensor | None) -> None:
    """See `graftwork.kernels.abs_sum`."""
    out.copy_(block_sums(differences(x, base).abs()))
