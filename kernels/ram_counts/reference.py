"""`ram_counts` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graftwork.kernels.ram_combine.reference import counted


def ram_counts(out: Tensor, base: Tensor, inputs: Sequence[Tensor], epsilon: float) -> None:
    """See `graftwork.kernels.ram_counts`."""
    _, counts, many = counted(base, inputs, epsilon)
    for position, count in enumerate(counts):
        out[position, 0] = (count & (many > 1)).sum()
        out[position, 1] = (count & (many == 1)).sum()
