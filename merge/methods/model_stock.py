"""Model Stock: how far fine-tunes agree says how far to go from the base to their average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.inner_products import Doubles, GridProducts, InputProducts, VectorProducts

SMALLEST_PRODUCT = 1e-6
"""mergekit's lower bound of a product of norms, and of the divisor."""


@merge_method("model_stock", space="delta", cites="https://arxiv.org/abs/2403.19522")
@dataclass(frozen=True, slots=True)
class ModelStock:
    """From the base towards the average of the fine-tunes, by a ratio that their angles give, tensor by tensor.

    filter_wise: one ratio for each filter (each slice of the first dimension: a row of a matrix) in place of one for
                 the tensor

    base + t * mean_i d_i with d_i = x_i - base, t = N c / (1 + (N - 1) c), and c the mean cosine of the N (N - 1) / 2
    pairs of d_i, from dot products in float64. t is clamped to 0..1: a c below 0 says that the fine-tunes have nothing
    in common, and the base is kept. Pairs with a zero delta have cosine 0. A tensor of one dimension is one filter.

    paper: equation 7, layer by layer (the default); each layer's weights and biases have ratios of their own.
    mergekit: does not clamp, so that c = -0.9 with 3 models gives t = 3.4 and c = -0.52 gives 39; its product of norms
    is at least 1e-6, which is wrong for small deltas (compat reproduces both, and its filters along the last
    dimension).
    Use it to average several fine-tunes of one task, made with different seeds or settings; two are enough.
    """

    filter_wise: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (2, None)
    quirks: ClassVar[bool] = True

    def statistic(self) -> InputProducts | VectorProducts:
        """The angles between the task vectors."""
        if self.filter_wise:
            return VectorProducts("rows" if self.compat_ else "filters")
        return InputProducts()

    def combine(self, out: Array, piece: Slice, measured: NDArray[np.float64] | GridProducts, scale: float) -> None:
        """One weighted sum of differences."""
        count = len(piece.inputs)
        if isinstance(measured, GridProducts):
            ratios = self.ratio(measured.within(piece))
            measured.combine(out, piece, np.repeat(ratios[:, None] / count, count, axis=1), scale)
            return
        weight = float(self.ratio(measured)) / count
        weighted_sum(out, piece.inputs, [weight] * count, piece.against_base(), scale)

    def ratio(self, products: Doubles) -> Doubles:
        """t, from the dot products float64[..., n, n] of the deltas."""
        count = products.shape[-1]
        norms = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
        lengths = norms[..., :, None] * norms[..., None, :]
        if self.compat_:
            lengths = np.maximum(lengths, SMALLEST_PRODUCT)
        cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
        upper, lower = np.triu_indices(count, 1)
        c = np.clip(cosines[..., upper, lower], -1, 1).mean(axis=-1)
        divisor = 1 + (count - 1) * c
        if self.compat_:
            singular = np.abs(divisor) < SMALLEST_PRODUCT
            return np.asarray(np.where(singular, 0, count * c / np.where(singular, 1, divisor)))
        return np.asarray(np.where(c > 0, np.minimum(count * c / np.where(c > 0, divisor, 1), 1), 0))
