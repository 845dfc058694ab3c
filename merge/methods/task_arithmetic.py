"""Task arithmetic: signed sums of task vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices import Array, Slice


@merge_method("task_arithmetic", space="delta", cites="https://arxiv.org/abs/2212.04089")
@dataclass(frozen=True, slots=True)
class TaskArithmetic:
    """The base plus a signed sum of the task vectors: base + lambda * sum w (x - base).

    weight:    the coefficient of each task vector; a negative one forgets the task
    lambda:    one coefficient on the sum
    normalize: divide the sum by the sum of the weights (off in the paper and in mergekit)

    The paper (section 2) uses weights of 1 and -1 and searches lambda; 0.3 to 0.5 is usual for several tasks.
    """

    weight: PerModel[Number] = (1.0,)
    lambda_: Number = 1.0
    normalize: bool = False
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
