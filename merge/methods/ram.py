"""RAM: shared changes are averaged, a change that one model alone made is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.kernels.ram_combine import ram_combine
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice

Magnitude = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@merge_method("ram", space="delta", cites="https://arxiv.org/abs/2601.13572")
@dataclass(frozen=True, slots=True)
class Ram:
    """Average each parameter's changes over the models that changed it; a change made by one model is kept whole.

    epsilon: a parameter is changed where its difference from the base is larger than this

    base + sum of the d_i with |d_i| > epsilon / their number, with d_i = x_i - base in float32, coordinate by
    coordinate.

    paper: RAM without rescaling. mergekit: the same.
    Use it for agents trained by reinforcement from one base, whose changes are sparse and in different places: an
    average over all models would dilute them. epsilon is absolute: in bfloat16 differences below it come from tiny
    weights only.
    """

    epsilon: Magnitude = 1e-5
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """The fused count and mean of one slice."""
        ram_combine(out, piece.against_base(), piece.inputs, self.epsilon, [1.0] * len(piece.inputs), scale)
