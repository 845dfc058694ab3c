"""Spherical interpolation between two models, or between two task vectors, whole or vector by vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.inner_products import GridProducts, InputProducts, VectorProducts
from graftwork.merge.statistics.sphere import arc

SMALLEST_SUM = 1e-6


@merge_method("nuslerp", space="weight", cites="https://doi.org/10.1145/325334.325242")
@dataclass(frozen=True, slots=True)
class Nuslerp:
    """Along the arc between two models, as far as their weights say; with a base_model, between their task vectors.

    weight:           of each model; t = second / (first + second)
    nuslerp_flatten:  take each tensor as one vector; without it, every column (or row) turns by an angle of its own
    nuslerp_row_wise: without nuslerp_flatten, take the rows (the vectors along the last dimension) in place of the
                      columns (those along the first)

    sin((1 - t) theta) / sin(theta) * x_1 + sin(t theta) / sin(theta) * x_2, with theta the angle between the vectors,
    in float64; the straight line where they are parallel, opposite (within 0.06 degrees) or zero. With a base_model, x
    are the differences from it and the result is added to it. A tensor of one dimension is one vector.

    mergekit: has rows and columns the other way round than it documents, and takes t = 0.5 for weights that sum to 0
    (compat reproduces both); the sum 0 is refused here. It treats a zero vector as perpendicular to all others.
    Use it as slerp with weights in place of t; with a base_model to blend two fine-tunes of it without shrinking what
    both learnt. Turning vectors one by one suits embeddings and other tables of vectors.
    """

    weight: PerModel[Number]
    nuslerp_flatten: bool = True
    nuslerp_row_wise: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (2, 2)
    takes_base: ClassVar[bool] = True
    quirks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if sum(self.weight) == 0 and not self.compat_:
            raise ValueError("the weights sum to 0, and t is the second's share of the sum")

    @property
    def t(self) -> float:
        """How far along the arc."""
        total = sum(self.weight)
        return 0.5 if self.compat_ and abs(total) < SMALLEST_SUM else self.weight[1] / total

    def statistic(self) -> InputProducts | VectorProducts:
        """The angle between the tensors, or between each pair of rows or columns."""
        if self.nuslerp_flatten:
            return InputProducts()
        return VectorProducts("rows" if self.nuslerp_row_wise != self.compat_ else "columns")

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64] | GridProducts, scale: float) -> None:
        """One weighted sum."""
        if isinstance(measured, GridProducts):
            measured.combine(out, piece, arc(measured.within(piece), self.t), scale)
            return
        weights = [float(weight) for weight in arc(measured, self.t)]
        weighted_sum(out, piece.inputs, weights, piece.base, scale)
