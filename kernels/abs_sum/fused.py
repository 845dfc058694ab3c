"""`abs_sum` in Triton."""

from __future__ import annotations

from graftwork.kernels.gram.fused import block_edges, part_abs_sums


def abs_sum(out, x, base):
    """See `graftwork.kernels.abs_sum`."""
    part_abs_sums(out, x, base, block_edges(x.numel(), x.device))
