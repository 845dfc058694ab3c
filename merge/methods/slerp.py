"""Spherical interpolation between two models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.magnitudes import DotProducts

PARALLEL = 0.9995
"""Above this cosine the arc is as good as a straight line."""
SMALLEST_NORM = 1e-8


@merge_method("slerp", space="weight", cites="https://doi.org/10.1145/325334.325242")
@dataclass(frozen=True, slots=True)
class Slerp:
    """From the base (t = 0) to one other model (t = 1) along the arc between them, tensor by tensor.

    t: how far along the arc; often a gradient over the layers with filters for attention and mlp

    With theta the angle between the two tensors as vectors:
    sin((1 - t) theta) / sin(theta) * base + sin(t theta) / sin(theta) * model, with the angle in float64. Where
    |cos theta| is above 0.9995, or a norm is 0, the straight line (1 - t) base + t model.

    paper: Shoemake's interpolation of unit quaternions; weights are not unit vectors, and their lengths are
    interpolated along. mergekit: the same.
    Use it to blend two models that differ much, layer by layer; for fine-tunes of one base the angles are so small that
    it is linear.
    """

    t: Annotated[float, Field(ge=0, le=1)]
    models: ClassVar[tuple[int, int | None]] = (1, 1)
    needs_base: ClassVar[bool] = True

    def statistic(self) -> DotProducts:
        """The angle needs both norms and the dot product of the whole tensor."""
        return DotProducts()

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64], scale: float) -> None:
        """A weighted sum of base and model."""
        weighted_sum(out, (piece.against_base(), *piece.inputs), self.coefficients(measured), None, scale)

    def coefficients(self, products: NDArray[np.float64]) -> tuple[float, float]:
        """The factors of base and model, from their dot products float64[2, 2]."""
        norms = math.sqrt(products[0, 0]), math.sqrt(products[1, 1])
        if min(norms) <= SMALLEST_NORM:
            return 1 - self.t, self.t
        cosine = float(products[0, 1]) / (norms[0] * norms[1])
        if abs(cosine) > PARALLEL:
            return 1 - self.t, self.t
        angle = math.acos(cosine)
        return math.sin((1 - self.t) * angle) / math.sin(angle), math.sin(self.t * angle) / math.sin(angle)
