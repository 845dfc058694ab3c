"""Linear combination of weights with coefficients of their own for every row, or every column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name

Axis = Literal["row", "column"]


@kernel
def axis_weighted_sum(
    out: Array,
    inputs: Sequence[Array],
    weights: Array,
    columns: int,
    offset: int,
    axis: Axis,
    base: Array | None = None,
    scale: float = 1.0,
) -> None:
    """Write `scale * sum_i weights[i, g] * inputs[i]`, or `base + scale * sum_i weights[i, g] * (inputs[i] - base)`.

    g is the row of the element in its tensor, (offset + k) // columns, or its column, (offset + k) % columns.

    out:     any shape, F64 F32 F16 BF16, taken as flat: elements from `offset` on of a tensor with rows of `columns`
    inputs:  one or more of the shape of out, each of any of those dtypes
    weights: float32 [inputs, rows of the whole tensor] or [inputs, columns]
    axis:    `row` or `column`
    base:    of the shape of out; makes the sum one of differences

    Rounding and order are those of `weighted_sum`; all twins give the same bits.

    Raises ValueError for no inputs, other dtypes, shapes that differ, weights that do not cover the elements.
    Source: Model Stock, arXiv:2403.19522, with one ratio a filter.
    """
    check_counts(len(inputs))
    check_slices(out=out, inputs=inputs, base=base)
    check_output(out)
    if axis not in ("row", "column"):
        raise ValueError(f"axis is {axis!r}; expected 'row' or 'column'")
    if columns < 1 or offset < 0:
        raise ValueError(f"columns is {columns} and offset {offset}; expected at least 1 and 0")
    size = math.prod(out.shape)
    groups = columns if axis == "column" else -(-(offset + size) // columns)
    if safetensors_name(weights.dtype) != "F32" or len(weights.shape) != 2 or weights.shape[0] != len(inputs):
        raise ValueError(f"weights must be F32 of shape [{len(inputs)}, {axis}s]")
    if weights.shape[1] < groups or (axis == "column" and weights.shape[1] != columns):
        raise ValueError(f"weights has {weights.shape[1]} {axis}s, and the elements {groups}")
    axis_weighted_sum.run(out, list(inputs), weights, columns, offset, axis, base, scale)
