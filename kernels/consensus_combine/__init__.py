"""Consensus: keep the coordinates of a merged task vector that matter to enough tasks, by their TALL masks."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def consensus_combine(
    out: Array,
    base: Array,
    inputs: Sequence[Array],
    merged: Array | None,
    mask_lambdas: Sequence[float],
    min_agree: int,
    scale: float = 1.0,
) -> None:
    """Write `base + scale * m` where at least `min_agree` inputs agree with the merged difference m, else the base.

    out, base:    any shape, F64 F32 F16 BF16; out may be base or one of the inputs
    inputs:       one or more of the shape of out
    merged:       of the shape of out: m itself, not added to the base; None for the sum of the d_i
    mask_lambdas: one per input, 0 or more

    For element j, d_i = inputs[i][j] - base[j]; input i agrees where |d_i| > mask_lambdas[i] * |m - d_i|, strictly. A
    non-finite m makes the result NaN. Every value is first rounded to float32, the sum runs from left to right, each
    operation is rounded to float32 and none is contracted: all twins give the same bits.

    Raises ValueError for no inputs, other dtypes, shapes or counts that differ.
    Source: TALL masks, arXiv:2405.07813, equations 5 and 7.
    """
    check_counts(len(inputs), mask_lambdas=mask_lambdas)
    check_slices(out=out, base=base, inputs=inputs, merged=merged)
    check_output(out)
    consensus_combine.run(out, base, list(inputs), merged, list(mask_lambdas), min_agree, scale)
