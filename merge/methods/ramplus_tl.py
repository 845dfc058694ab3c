"""RAM+: RAM with a boost for what one model alone changed."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.ram_combine import ram_combine
from graftwork.kernels.ram_counts import ram_counts
from graftwork.merge.method import merge_method
from graftwork.merge.methods.ram import Magnitude
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """For each input how many changes it shares with others and how many are its own: int64[n, 2]."""

    epsilon: float
    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[Counts]:
        """One pass of counting."""
        total = np.zeros((extent.inputs, 2), np.int64)
        lock = Lock()

        def count(piece: Slice) -> None:
            counts = ram_counts(piece.against_base(), piece.inputs, self.epsilon)
            with lock:
                np.add(total, counts, out=total)

        yield Pass(count)
        return total


@merge_method("ramplus_tl", space="delta", cites="https://arxiv.org/abs/2601.13572")
@dataclass(frozen=True, slots=True)
class RamplusTl:
    """RAM, with the changes that one model alone made scaled up by how much of its tensor is shared (tensor-local).

    epsilon: a parameter is changed where its difference from the base is larger than this
    r:       how strong the scaling is
    alpha:   the largest ratio of shared to own changes that counts

    Changes of several models are averaged as in ram; those of model i alone are multiplied by 1 + r * min(rho_i,
    alpha), with rho_i = its shared changes / its own in this tensor (alpha where it has shared ones alone).

    paper: RAM+ measures rho over the whole model. mergekit: tensor by tensor, which is the `tl` of the name; the same
    here.
    Use it in place of ram where averaging the shared changes visibly weakens each model.
    """

    epsilon: Magnitude = 1e-5
    r: Magnitude = 0.1
    alpha: Magnitude = 0.2
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> ChangeCounts:
        """How many changes are shared, and how many a model's own."""
        return ChangeCounts(self.epsilon)

    def combine(self, out: Array, piece: Slice, measured: Counts, scale: float) -> None:
        """The fused count and mean of one slice, with a factor for each model."""
        ram_combine(out, piece.against_base(), piece.inputs, self.epsilon, self.boosts(measured), scale)

    def boosts(self, counts: Counts) -> list[float]:
        """The factor of each model's own changes."""
        ratios = [self._ratio(int(shared), int(own)) for shared, own in counts]
        return [1 + self.r * ratio for ratio in ratios]

    def _ratio(self, shared: int, own: int) -> float:
        if own == 0:
            return self.alpha if shared else 0.0
        return min(shared / own, self.alpha)
