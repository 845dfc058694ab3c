"""Spherical interpolation among any number of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.inner_products import InputProducts
from graftwork.merge.statistics.sphere import barycentre, directions, mean_length

TOLERANCE = 1e-7
ITERATIONS = 100


@merge_method("multislerp", space="weight", cites="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea")
@dataclass(frozen=True, slots=True)
class Multislerp:
    """The weighted mean of the models' directions on the sphere, at the weighted mean of their lengths.

    weight:            the share of each model
    normalize_weights: divide the weights by their sum
    eps:               a weighted sum of directions shorter than this has no direction of its own; then the result is
                       the weighted sum of the models

    With u_i = x_i / |x_i|: (sum_i w_i |x_i|) * m, where m on the unit sphere makes sum_i w_i angle(m, u_i)^2 least. It
    is found in the tangent space at the normalised weighted mean, going on until the steps end, on n weights in
    float64; one weighted sum of the models follows. With a base_model, x_i are the differences from it. Between two
    models of the same length it is slerp; of different lengths, slerp of the directions at the interpolated length.
    Zero tensors have no direction and count in the length alone. Without normalize_weights the sum of the weights
    scales the length only.

    mergekit: its tangent vectors at the weighted mean add up to zero, so that its interpolation is a normalised
    weighted mean, which is not slerp for two models (compat reproduces it); with more than two models that cancel it
    fails.
    Use it in place of linear where three or more models differ so much that an average would shrink the weights.
    """

    weight: PerModel[Number]
    normalize_weights: bool = True
    eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-8
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    takes_base: ClassVar[bool] = True
    quirks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.normalize_weights and sum(self.weight) == 0:
            raise ValueError("the weights sum to 0 and cannot be normalised; set normalize_weights: false")

    def statistic(self) -> InputProducts:
        """The angles between all models."""
        return InputProducts()

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64], scale: float) -> None:
        """One weighted sum."""
        weighted_sum(out, piece.inputs, self.coefficients(measured), piece.base, scale)

    def coefficients(self, products: NDArray[np.float64]) -> list[float]:
        """The weight of each model, from the dot products float64[n, n]."""
        norms, cosines = directions(products)
        weights = np.array(self.weight, np.float64)
        if self.normalize_weights:
            weights = weights / weights.sum()
        shares = np.where(norms > 0, weights, 0.0)
        total = shares.sum()
        if total == 0 or mean_length(cosines, shares) <= self.eps:
            return [float(weight) for weight in weights]
        shares = shares / total
        rounds = 0 if self.compat_ else ITERATIONS
        sign = np.sign(total) if self.compat_ else 1.0  # mergekit's mean of negative weights points the other way
        point = sign * barycentre(cosines, shares, shares, TOLERANCE, rounds)
        length = float(weights @ norms)
        return [float(c) for c in length * np.divide(point, norms, out=np.zeros_like(point), where=norms > 0)]
