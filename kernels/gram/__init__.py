"""Dot products between models, from which norms and cosines follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_counts, check_slices
from graftwork.kernels.dispatch import kernel

BLOCK = 65536
"""Elements of one partial sum: slices that start at a multiple of it give the partial sums of the whole tensor."""


@kernel
def gram(inputs: Sequence[Array], base: Array | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Dot products of every pair of inputs, or of their differences from the base, per block of 65536 elements.

    inputs: n of one shape, F64 F32 F16 BF16, taken as flat
    base:   of that shape
    ->      float64 [ceil(elements / 65536), n, n], in host memory, symmetric to the bit

    Values are rounded to float32 and subtracted in float32; products and sums are float64. Within a block, lane l of 32
    adds the elements l, l + 32, ... in that order, and the lanes are added in order: the native and the Triton twin
    give the same bits, however a tensor is sliced, as long as slices start at multiples of 65536.

    Raises ValueError for no inputs, other dtypes and shapes that differ.
    """
    check_counts(len(inputs))
    check_slices(inputs=inputs, base=base)
    blocks = -(-math.prod(inputs[0].shape) // BLOCK)
    products = np.empty((blocks, len(inputs), len(inputs)), np.float64)
    gram.run(products, list(inputs), base)
    return products
