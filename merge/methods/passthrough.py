"""One model, unchanged or scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("passthrough", space="weight", cites="https://github.com/arcee-ai/mergekit")
@dataclass(frozen=True, slots=True)
class Passthrough:
    """The tensors of a single model, multiplied by `scale` where one is given.

    scale: a factor, usually with a filter for some tensors

    mergekit: the same.
    Use it to stack layers of models with slices, or to scale chosen tensors of one model.
    """

    scale: PerModel[Number | None] = (None,)
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """A sum of one term."""
        (own,) = self.scale
        weighted_sum(out, piece.inputs, [1.0 if own is None else own], None, scale)
