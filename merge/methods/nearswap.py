"""NearSwap: take another model's weights where they are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.kernels.nearswap import nearswap
from graftwork.merge.method import merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("nearswap", space="delta", cites="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001")
@dataclass(frozen=True, slots=True)
class NearSwap:
    """Move every weight of the base towards one other model, but by no more than t.

    t: the longest step; weights nearer than that are the other model's

    base + clamp(x - base, -t, t). mergekit writes it as an interpolation with the share min(1, t / |x - base|) of the
    other model, which is the same.

    mergekit: the same, in the dtype of the inputs.

    Use it to add a little of a second model's style to a base that must stay what it is; 0.0001 is the original's t.
    """

    t: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    models: ClassVar[tuple[int, int | None]] = (1, 1)

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One clamped step."""
        nearswap(out, piece.against_base(), piece.inputs[0], self.t, scale)
