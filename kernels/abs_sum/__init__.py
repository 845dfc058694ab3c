"""L1 norms of weights and task vectors, from which LiNeS scales a merge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.gram import BLOCK


@kernel
def abs_sum(x: Array, base: Array | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The sum of `|x - base|` per block of 65536 elements.

    x:    any shape, F64 F32 F16 BF16, taken as flat
    base: of the shape of x; None for zeros
    ->    float64 [ceil(elements / 65536)], in host memory

    Rounding, lanes and their order are those of `gram`.

    Raises ValueError for other dtypes and shapes that differ.
    Source: LiNeS, arXiv:2410.17146, section 4.
    """
    check_slices(x=x, base=base)
    sums = np.empty(-(-math.prod(x.shape) // BLOCK), np.float64)
    abs_sum.run(sums, x, base)
    return sums
