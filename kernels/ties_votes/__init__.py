"""The global majority sign of TIES-Merging, which settles coordinates whose own vote is undecided."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_counts, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def ties_votes(
    base: Array, inputs: Sequence[Array], thresholds: Sequence[int], cutoffs: Sequence[int], offset: int
) -> int:
    """Add up, over the elements, the sign of the sum of the kept differences.

    Arguments, trimming and the sum are those of `ties_combine` with vote="unweighted"; a NaN counts 0. The sum over all
    slices is the paper's global vote; its sign is the `zero_sign` to combine with.

    Raises ValueError for no inputs, other dtypes, and shapes or counts that differ.
    Source: TIES-Merging, arXiv:2306.01708; github.com/prateeky2806/ties-merging, `resolve_zero_signs`.
    """
    check_counts(len(inputs), thresholds=thresholds, cutoffs=cutoffs)
    check_slices(base=base, inputs=inputs)
    return int(ties_votes.run(base, list(inputs), list(thresholds), list(cutoffs), offset))
