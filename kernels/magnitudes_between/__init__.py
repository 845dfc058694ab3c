"""The magnitudes inside brackets, and how many stand above them: exact k-th largest from guesses and one pass."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.kernels.arrays import Array, check_output, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name


@kernel
def magnitudes_between(
    counts: Array, values: Array, x: Array, base: Array | None, brackets: Sequence[tuple[int, int]]
) -> None:
    """Write, bracket by bracket, the float32 bit patterns of `|x - base|` above its low and below its high end.

    counts:   int64 [brackets, 4]: how many patterns are above high, equal to high, between, equal to low
    values:   int32 [brackets, room]: the first of what is between, in index order; what follows stays as it was
    x:        any shape, F64 F32 F16 BF16, taken as flat
    base:     of the shape of x; None for zeros
    brackets: one or more pairs of bit patterns, -1 <= low <= high; where they are equal, their equals count as high

    x and base are first rounded to float32. A NaN has one of the patterns above 0x7f800000.

    Raises ValueError for other dtypes, shapes that differ, counts or values of another kind, and bounds out of order.
    """
    check_slices(x=x, base=base)
    check_output(counts)
    check_output(values)
    if not brackets or safetensors_name(counts.dtype) != "I64" or list(counts.shape) != [len(brackets), 4]:
        raise ValueError(f"counts is {counts.dtype} {list(counts.shape)}; expected int64 [{len(brackets)}, 4]")
    if safetensors_name(values.dtype) != "I32" or len(values.shape) != 2 or values.shape[0] != len(brackets):
        raise ValueError(f"values is {values.dtype} {list(values.shape)}; expected int32 [{len(brackets)}, room]")
    for low, high in brackets:
        if not -1 <= low <= high < 1 << 31:
            raise ValueError(f"low is {low}, high is {high}; expected -1 <= low <= high")
    magnitudes_between.run(counts, values, x, base, [low for low, _ in brackets], [high for _, high in brackets])
