"""Model Breadcrumbs: drop the largest and the smallest entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import Density, Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.bands import Band, Outliers
from graftwork.merge.statistics.masking import check_weights, combine_masked, whole


@merge_method("breadcrumbs", space="delta", cites="https://arxiv.org/abs/2312.06795")
@dataclass(frozen=True, slots=True)
class Breadcrumbs:
    """Drop the largest and the smallest entries of each task vector, and add up what is left.

    weight:    the coefficient of each task vector
    density:   the fraction of entries that is kept; 0 drops everything
    gamma:     the fraction of the largest entries that is dropped
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of the weights
    int8_mask: accepted and without effect: masks take no memory here

    Of the n entries of a tensor, in descending order of magnitude, the first int(gamma * n) are dropped and the next
    max(1, int(density * n)), or as many as there are, are kept; equal magnitudes are ordered by index. The result is
    base + lambda * sum w (x - base) over what is kept.

    paper: this; the paper's beta is 1 - gamma - density.
    mergekit: where density + gamma exceeds 1 it drops fewer of the largest, and none where density is 1, its default;
    where int(density * n) is 0 it keeps nothing. `compat: mergekit` does that. Its equals are in no fixed order.

    Use it to merge many fine-tunes without tuning on each: outliers and noise are dropped, and hyper-parameters found
    for few tasks hold for many. The paper uses densities around 0.1 to 0.15 and gamma 0.01.
    """

    weight: PerModel[Number] = (1.0,)
    density: PerModel[Density] = (1.0,)
    gamma: PerModel[Annotated[float, Field(ge=0, lt=1)]] = (0.01,)
    lambda_: Number = 1.0
    normalize: bool = False
    int8_mask: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    quirks: ClassVar[bool] = True
    vote: ClassVar[Vote] = "none"

    def __post_init__(self) -> None:
        check_weights(self.weight, vote=self.vote, normalize=self.normalize)

    def statistic(self) -> Outliers:
        """The magnitudes between which entries are kept."""
        return Outliers(self.density, self.gamma, "gamma" if self.compat_ else "density")

    def combine(self, out: Array, piece: Slice, measured: Band, scale: float) -> None:
        """The fused masks and combination of one slice."""
        parts = whole(piece, measured.masks())
        scale = self.lambda_ * scale
        combine_masked(
            out, piece, parts, self.weight, scale, vote=self.vote, normalize=self.normalize, signed=self.compat_
        )
