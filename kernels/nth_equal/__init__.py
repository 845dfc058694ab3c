"""Where the n-th of the elements of one magnitude stands: how exact top-k breaks ties by position."""

from __future__ import annotations

from graftwork.kernels.arrays import Array, check_slices
from graftwork.kernels.dispatch import kernel


@kernel
def nth_equal(x: Array, base: Array | None, bits: int, n: int) -> int:
    """Find the n-th element, counted from 0 in index order, whose `|x - base|` has the float32 pattern `bits`.

    x:    any shape, F64 F32 F16 BF16, taken as flat
    base: of the shape of x; None for zeros
    ->    its flat index, or `-1 - count` when only `count <= n` elements have the pattern

    Raises ValueError for other dtypes, shapes that differ and a negative n.
    """
    check_slices(x=x, base=base)
    if n < 0:
        raise ValueError(f"n is {n}; expected 0 or more")
    return int(nth_equal.run(x, base, bits, n))
