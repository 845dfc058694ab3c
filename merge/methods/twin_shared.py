"""Twin-Merging, the part that all tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("twin_shared", space="delta", cites="https://arxiv.org/abs/2406.15479")
@dataclass(frozen=True, slots=True)
class TwinShared:
    """The shared model of Twin-Merging: base + lambda * sum w (x - base), from which each task's expert is then taken.

    weight: the coefficient of each task vector
    lambda: one coefficient on the sum

    The exclusive knowledge of task t is x_t - shared, kept at a low rank: `graft extract MODEL_t --base SHARED
    --rank K` gives each expert as an adapter of the shared model, which can be served beside the others. At full rank
    an expert and the shared model are x_t again in every linear layer; the command lists what else differs.

    paper (section 3.2 and the authors' code): lambda 0.3 (0.29 for GLUE), rank int(0.1 * min(out, in)) for each matrix
    and 1-D tensors kept whole, which an adapter cannot hold. For LoRA inputs the authors' code takes the difference of
    the A and of the B factors; here, as over all adapters, of the products. Weighting the experts for each input by a
    router is left to whatever serves them.
    mergekit: has no such method; task_arithmetic with lambda 0.3 gives the same model.

    Use it to serve several tasks from one model and small experts, closer to the fine-tunes than any single merge.
    """

    weight: PerModel[Number] = (1.0,)
    lambda_: Number = 0.3
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum of differences."""
        weighted_sum(out, piece.inputs, self.weight, piece.against_base(), self.lambda_ * scale)
