"""Weighted averages of whole models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("linear", space="weight", cites="https://arxiv.org/abs/2203.05482")
@dataclass(frozen=True, slots=True)
class Linear:
    """The weighted average of the models' values: sum w x / sum w, or sum w x without `normalize`.

    weight:    the share of each model; negative weights are allowed
    normalize: divide by the sum of the weights

    With equal weights this is a uniform model soup.

    paper: Model soups, section 3: the uniform soup. mergekit: the same; weights that sum to 0 give NaN there and are
    refused here.
    Use it for checkpoints of one run, or fine-tunes of one base on the same task; it is what every other method has to
    beat.
    """

    weight: PerModel[Number] = (1.0,)
    normalize: bool = True
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def __post_init__(self) -> None:
        if self.normalize and sum(self.weight) == 0:
            raise ValueError("the weights sum to 0 and cannot be normalised; set normalize: false")

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum."""
        total = sum(self.weight) if self.normalize else 1.0
        weighted_sum(out, piece.inputs, [weight / total for weight in self.weight], None, scale)
