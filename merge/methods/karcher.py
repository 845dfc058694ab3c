"""The mean of models on a hypersphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.inner_products import InputProducts
from graftwork.merge.statistics.sphere import barycentre, directions, mean_length


@merge_method("karcher", space="weight", cites="https://doi.org/10.1002/cpa.3160300502")
@dataclass(frozen=True, slots=True)
class Karcher:
    """The Karcher (Frechet) mean of the models' directions, at the mean of their lengths, tensor by tensor.

    max_iter: steps at most
    tol:      the mean is found when a step is shorter than this, in radians

    With u_i = x_i / |x_i| the result is mean_i |x_i| * m, where m on the unit sphere makes sum_i angle(m, u_i)^2 least:
    from the normalised mean of the u_i, steps along sum_i log_m(u_i) / n. The iteration needs the dot products of the
    models only: it runs on n weights in float64, and one weighted sum of the models follows. Models whose tensor is
    zero have no direction and count in the length alone. Where the directions cancel, that of the first model is kept.

    mergekit: iterates over the tensors, in their own dtype (bfloat16 rounds every step), and leaves out every tensor
    shorter than tol; here only zero tensors are left out, so that scaling all models scales the result.
    Use it to average models that lie far apart, where a plain average shrinks the weights; for fine-tunes of one base
    it hardly differs from linear.
    """

    max_iter: Annotated[int, Field(ge=0)] = 10
    tol: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> InputProducts:
        """The angles between all models."""
        return InputProducts()

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64], scale: float) -> None:
        """One weighted sum."""
        weighted_sum(out, piece.inputs, self.coefficients(measured), None, scale)

    def coefficients(self, products: NDArray[np.float64]) -> list[float]:
        """The weight of each model, from the dot products float64[n, n]."""
        norms, cosines = directions(products)
        if not norms.any():
            return [0.0] * len(norms)
        present = (norms > 0).astype(np.float64)
        shares = present / present.sum()
        start = shares if mean_length(cosines, shares) > self.tol else np.eye(len(norms))[int(present.argmax())]
        point = barycentre(cosines, shares, start, self.tol, self.max_iter)
        weights = norms.mean() * np.divide(point, norms, out=np.zeros_like(point), where=norms > 0)
        return [float(weight) for weight in weights]
