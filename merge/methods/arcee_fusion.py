"""Arcee Fusion: of a fine-tune's changes, those that stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graftwork.kernels.arrays import beside, on_host
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.importance import FusionImportance, Importance


@merge_method("arcee_fusion", space="delta", cites="https://github.com/arcee-ai/mergekit")
@dataclass(frozen=True, slots=True)
class ArceeFusion:
    """The base with those of the model's parameters that changed enough to stand out, tensor by tensor.

    The importance of a parameter is |x - base| * KL(softmax(row of x) || softmax(row of base)), with rows along the
    last dimension; it is taken from the model where its importance is at least median + 1.5 * (third - first quartile)
    of the tensor's importances, and from the base elsewhere. It has no parameters.

    mergekit: takes the quartiles of a random million of the importances, with other results in every run; here they are
    exact. Its divergence is computed in float32, where it is lost in rounding for small deltas (and can be negative),
    with 1e-8 added to each probability; here in float64 without. Its result is float32 for bfloat16 inputs; here it
    has the dtype of the inputs.
    Use it to bring a fine-tune's strongest changes into a base and leave the rest of the base alone.
    """

    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def statistic(self) -> FusionImportance:
        """The divergence of each row, and the threshold."""
        return FusionImportance()

    def combine(self, out: Array, piece: Slice, measured: Importance, scale: float) -> None:
        """The model where it stands out, else the base."""
        base = piece.against_base()
        chosen = np.where(measured.chosen(piece), on_host(piece.inputs[0]), on_host(base))
        weighted_sum(out, [beside(chosen, base)], [1.0], base, scale)
