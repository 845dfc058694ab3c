"""RAM: what several models changed is averaged, what one model alone changed is kept."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def ram_combine(
    out: Array,
    base: Array,
    inputs: Sequence[Array],
    epsilon: float,
    boosts: Sequence[float],
    scale: float = 1.0,
) -> None:
    """Write `base + scale * merged` with d_i = inputs[i] - base, of which those with |d_i| > epsilon count.

    merged is 0 where none counts, boosts[i] * d_i where d_i alone does, else the mean of those that count.

    out:     any shape, F64 F32 F16 BF16
    base:    of the shape of out
    inputs:  one or more of the shape of out
    epsilon: rounded to float32
    boosts:  one factor an input

    Every value is first rounded to float32; sums run from left to right, each operation rounded to float32, none
    contracted; the result is rounded once, to nearest even. All twins give the same bits. A NaN counts, and so shows.

    Raises ValueError for no inputs, other dtypes, and shapes or counts that differ.
    Source: Reinforced Agent Merging, arXiv:2601.13572.
    """
    check_counts(len(inputs), boosts=boosts)
    check_slices(out=out, base=base, inputs=inputs)
    check_output(out)
    ram_combine.run(out, base, list(inputs), epsilon, list(boosts), scale)
