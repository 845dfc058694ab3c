"""Keep probabilities by the rank of a magnitude in its row: the MagPrune step of DELLA."""

from __future__ import annotations

import math

from graftwork.kernels.arrays import Array, check_output, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name


@kernel
def rank_chances(out: Array, x: Array, base: Array | None, width: int, low: float, high: float) -> None:
    """Write for each element `low + (high - low) / (width - 1) * rank`, its rank among the magnitudes of its row.

    out:   F32, of the shape of x
    x:     any shape, F64 F32 F16 BF16, taken as rows of `width` elements
    base:  of the shape of x; None for zeros
    width: at least 1, less than 2**31; the elements are whole rows

    The rank of the smallest |x - base| is 0, that of the largest width - 1; of equal magnitudes the one with the lowest
    index ranks highest. A row of one element has (low + high) / 2. Each operation is rounded to float32: all twins give
    the same bits.

    Raises ValueError for other dtypes, shapes that differ and elements that are not whole rows.
    Source: DELLA-Merging, arXiv:2406.11617, section 3.1; mergekit, `della_magprune`.
    """
    check_slices(out=out, x=x, base=base)
    check_output(out)
    if safetensors_name(out.dtype) != "F32":
        raise ValueError(f"out is {safetensors_name(out.dtype)}; chances are F32")
    check_rows(math.prod(x.shape), width)
    rank_chances.run(out, x, base, width, low, high)


def check_rows(size: int, width: int) -> None:
    """Raises ValueError where `size` elements are not whole rows of `width`."""
    if not 0 < width < 1 << 31 or size % width:
        raise ValueError(f"{size} elements are not whole rows of {width}")
