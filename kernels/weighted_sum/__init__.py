"""Linear combination of weights, the heart of linear merging and of task arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def weighted_sum(
    out: Array, inputs: Sequence[Array], weights: Sequence[float], base: Array | None = None, scale: float = 1.0
) -> None:
    """Write `scale * sum_i weights[i] * inputs[i]`, or `base + scale * sum_i weights[i] * (inputs[i] - base)`.

    out:     any shape, F64 F32 F16 BF16; may be one of the inputs
    inputs:  one or more of the shape of out, each of any of those dtypes
    weights: one per input
    base:    of the shape of out; makes the sum one of differences

    Every value is first rounded to float32. The sum starts with the first term and runs from left to right, each
    operation rounded to float32, none contracted; the result is rounded once, to nearest even. All twins give the same
    bits. NaN and infinities propagate; sign and payload of a NaN are unspecified.

    Raises ValueError for no inputs, other dtypes, and shapes or counts that differ.
    Source: Model soups, arXiv:2203.05482; task arithmetic, arXiv:2212.04089, section 2.
    """
    check_counts(len(inputs), weights=weights)
    check_slices(out=out, inputs=inputs, base=base)
    check_output(out)
    weighted_sum.run(out, list(inputs), list(weights), base, scale)
