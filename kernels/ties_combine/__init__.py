"""Trim, elect signs, combine what agrees: TIES-Merging in one pass once the thresholds are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel

Vote = Literal["weighted", "unweighted"]
Divide = Literal["weights", "signed_weights", "count", "none", "max"]

VOTES = ("weighted", "unweighted")
DIVIDES = ("weights", "signed_weights", "count", "none", "max")
KEEP_EQUAL = 2**63 - 1
"""The cutoff that keeps every element whose magnitude equals the threshold."""


@kernel
def ties_combine(
    out: Array,
    base: Array,
    inputs: Sequence[Array],
    weights: Sequence[float],
    thresholds: Sequence[int],
    cutoffs: Sequence[int],
    offset: int,
    *,
    scale: float = 1.0,
    vote: Vote = "weighted",
    divide: Divide = "weights",
    zero_sign: int = 1,
) -> None:
    """Write `base + scale * value`, where `value` combines the kept differences that agree with the elected sign.

    out, base:  any shape, F64 F32 F16 BF16; out may be base or one of the inputs
    inputs:     one or more of the shape of out
    weights:    one per input
    thresholds: per input, a float32 bit pattern of a magnitude, 0..0x7fffffff
    cutoffs:    per input, a flat position in the whole tensor
    offset:     flat position in the whole tensor of the first element of these slices
    zero_sign:  the sign that an undecided vote elects, +1 or -1; 0 counts as +1

    For element j, d_i = inputs[i][j] - base[j] is kept when the pattern of |d_i| is above thresholds[i], or equals it
    and offset + j < cutoffs[i]; otherwise d_i = 0. Then
        total = sum_i weights[i] * d_i     vote="weighted"      (mergekit)
                sum_i d_i                  vote="unweighted"    (the paper)
        sign  = that of total, zero_sign where it is 0
        i agrees when its term of total is not 0 and has that sign
        value = sum over the agreeing of weights[i] * d_i, divided by
                the sum of their |weights[i]|     divide="weights"
                the sum of their weights[i]       divide="signed_weights"
                their number                      divide="count"
                nothing                           divide="none"
                or the largest |weights[i] * d_i| among them, times the sign, for divide="max"
    A divisor of 0 is taken as 1: where nothing agrees, value is 0. A NaN among the d_i makes the result NaN.

    Every value is first rounded to float32, sums run from left to right, each operation is rounded to float32 and none
    is contracted: all twins give the same bits. Sign and payload of a NaN are unspecified.

    Raises ValueError for no inputs, other dtypes, shapes or counts that differ, an unknown option.
    Source: TIES-Merging, arXiv:2306.01708, section 4; mergekit, `generalized_task_arithmetic`.
    """
    check_counts(len(inputs), weights=weights, thresholds=thresholds, cutoffs=cutoffs)
    check_slices(out=out, base=base, inputs=inputs)
    check_output(out)
    if vote not in VOTES:
        raise ValueError(f"vote is {vote!r}; expected one of {', '.join(VOTES)}")
    if divide not in DIVIDES:
        raise ValueError(f"divide is {divide!r}; expected one of {', '.join(DIVIDES)}")
    sign = -1 if zero_sign < 0 else 1
    ties_combine.run(
        out, base, list(inputs), list(weights), list(thresholds), list(cutoffs), offset, scale, vote, divide, sign
    )
