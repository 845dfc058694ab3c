"""A step of one model towards the mean of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("ema_toward_mean", space="weight", cites="https://arxiv.org/abs/2412.09441")
@dataclass(frozen=True, slots=True)
class EmaTowardMean:
    """The base_model moved a little towards the mean of the other models: (1 - alpha) base + alpha * mean_i x_i.

    alpha: the length of the step; 0 keeps the base, 1 gives the mean, a negative one moves away

    The base_model is the newest model of a row, the models are the earlier ones.

    paper: MOS (section on the adapters' merge), with alpha = 0.1 for the newest adapter towards the mean of the earlier
    ones. The authors' code takes this step again in every forward, once a layer, so that it compounds; here it is taken
    once.
    Use it when models are fine-tuned for one task after another from each other, each before it is published, so that
    the newest forgets less of what the earlier ones knew.
    """

    alpha: Number = 0.1
    models: ClassVar[tuple[int, int | None]] = (1, None)
    needs_base: ClassVar[bool] = True

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum of differences."""
        share = 1 / len(piece.inputs)
        weighted_sum(out, piece.inputs, [share] * len(piece.inputs), piece.against_base(), self.alpha * scale)
