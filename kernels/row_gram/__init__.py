"""Dot products between the rows of models, from which one cosine a row follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graftwork.kernels.arrays import Array, check_counts, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.gram import BLOCK


@kernel
def row_gram(
    inputs: Sequence[Array], columns: int, offset: int, base: Array | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Dot products of every pair of inputs, or of their differences from the base, for each part of a row.

    inputs:  n of one shape, F64 F32 F16 BF16, taken as flat: the elements from `offset` on of tensors whose rows have
             `columns` elements
    columns: elements of a row, at least 1
    offset:  flat index of the first element
    base:    of the shape of the inputs
    ->       float64 [parts, n, n], in host memory, symmetric to the bit; a part ends where a row does, and at
             multiples of 65536

    Values are rounded to float32 and subtracted in float32; products and sums are float64. Within a part, lane l of 32
    adds the elements l, l + 32, ... in that order, and the lanes are added in order. Slices that start at multiples of
    65536 have the parts of the whole tensor.

    Raises ValueError for no inputs, other dtypes, shapes that differ, and rows without columns.
    """
    check_counts(len(inputs))
    check_slices(inputs=inputs, base=base)
    if columns < 1 or offset < 0:
        raise ValueError(f"columns is {columns} and offset {offset}; expected at least 1 and 0")
    parts = count_parts(math.prod(inputs[0].shape), columns, offset)
    products = np.empty((parts, len(inputs), len(inputs)), np.float64)
    row_gram.run(products, list(inputs), columns, offset, base)
    return products


def count_parts(size: int, columns: int, offset: int) -> int:
    """Into how many parts the elements `offset` .. `offset + size` are cut by rows and by blocks."""
    if size == 0:
        return 0
    last = offset + size - 1
    return 1 + sum(
        sign * (last // step - offset // step)
        for step, sign in ((columns, 1), (BLOCK, 1), (math.lcm(columns, BLOCK), -1))
    )
