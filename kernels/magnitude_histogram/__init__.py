"""Counts of magnitudes by their bit patterns: two of them give the exact k-th largest without sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def magnitude_histogram(
    x: Array, base: Array | None = None, prefix: int | None = None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count the elements of `|x - base|` by the bits of their float32 pattern, which order as the magnitudes do.

    x:      any shape, F64 F32 F16 BF16
    base:   of the shape of x; None for zeros
    prefix: None counts by the high 15 of the 31 magnitude bits; a value of those counts, among the elements
            that have it, by the low 16 bits
    ->      int64 [32768], or [65536] with a prefix, in host memory

    x and base are first rounded to float32. A NaN is counted in one of the bins from 0x7f80 up.

    Raises ValueError for other dtypes, shapes that differ and a prefix outside 0..32767.
    """
    check_slices(x=x, base=base)
    if prefix is not None and not 0 <= prefix < 1 << 15:
        raise ValueError(f"prefix is {prefix}; expected 0..32767")
    counts = np.empty(1 << (15 if prefix is None else 16), np.int64)
    magnitude_histogram.run(counts, x, base, prefix)
    return counts
