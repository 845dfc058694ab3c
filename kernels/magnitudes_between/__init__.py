"""The magnitudes inside a bracket, and how many stand above it: an exact k-th largest from a guess and one pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name


@kernel
def magnitudes_between(
    counts: Array, x: Array, base: Array | None, low: int, high: int, room: int
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Collect the float32 bit patterns of `|x - base|` that are above `low` and below `high`, in index order.

    counts:    int64 [4], written: how many patterns are above high, equal to high, between, equal to low
    x:         any shape, F64 F32 F16 BF16, taken as flat
    base:      of the shape of x; None for zeros
    low, high: bit patterns, -1 <= low <= high; where they are equal, their equals count as equal to high
    room:      how many patterns are kept; the first ones where there are more
    ->         int32 [min(between, room)]

    x and base are first rounded to float32. A NaN has one of the patterns above 0x7f800000.

    Raises ValueError for other dtypes, shapes that differ, counts of another kind, and bounds out of order.
    """
    check_slices(x=x, base=base)
    if safetensors_name(counts.dtype) != "I64" or tuple(counts.shape) != (4,):
        raise ValueError(f"counts is {counts.dtype} {list(counts.shape)}; expected int64 [4]")
    if not -1 <= low <= high < 1 << 31 or room < 0:
        raise ValueError(f"low is {low}, high is {high}, room is {room}; expected -1 <= low <= high, 0 <= room")
    values = np.empty(room, np.int32)
    magnitudes_between.run(counts, values, x, base, low, high)
    return values[: min(room, int(counts[2]))]
