"""`ties_votes` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graftwork.kernels.ties_combine.reference import kept_differences


def ties_votes(
    base: Tensor, inputs: Sequence[Tensor], thresholds: Sequence[int], cutoffs: Sequence[int], offset: int
) -> int:
    """See `graftwork.kernels.ties_votes`."""
    kept = kept_differences(base, inputs, thresholds, cutoffs, offset)
    total = kept[0]
    for difference in kept[1:]:
        total = total + difference
    return int((total > 0).sum()) - int((total < 0).sum())
