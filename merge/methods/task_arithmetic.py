"""Task arithmetic: signed sums of task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Density, Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("task_arithmetic", space="delta", cites="https://arxiv.org/abs/2212.04089")
@dataclass(frozen=True, slots=True)
class TaskArithmetic:
    """The base plus a signed sum of the task vectors: base + lambda * sum w (x - base).

    weight:    the coefficient of each task vector; a negative one forgets the task
    lambda:    one coefficient on the sum
    normalize: divide the sum by the sum of the weights (off in the paper and in mergekit)
    density:   accepted and without effect, as in mergekit: nothing is trimmed (dare_linear and breadcrumbs trim)
    rescale:   accepted and without effect, for the same reason
    int8_mask: accepted and without effect, for the same reason

    paper: section 2, with weights of 1 and -1 and a search for lambda; 0.3 to 0.5 is usual for several tasks.
    mergekit: computes in the dtype of the inputs, where a weight of 0.3 in bfloat16 is 0.3008; here in float32. With
    normalize, weights that sum to nearly 0 blow the result up; a sum of exactly 0 is refused here.
    Use it to add what several fine-tunes learnt, or to forget a task with a negative weight; when more than two or
    three tasks get in each other's way, go on to ties or consensus_ta.
    """

    weight: PerModel[Number] = (1.0,)
    lambda_: Number = 1.0
    normalize: bool = False
    density: PerModel[Density] = (1.0,)
    rescale: bool = False
    int8_mask: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def __post_init__(self) -> None:
        if self.normalize and sum(self.weight) == 0:
            raise ValueError("the weights sum to 0 and cannot be normalised; set normalize: false")

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum of differences."""
        total = sum(self.weight) if self.normalize else 1.0
        weights = [weight / total for weight in self.weight]
        weighted_sum(out, piece.inputs, weights, piece.against_base(), self.lambda_ * scale)
