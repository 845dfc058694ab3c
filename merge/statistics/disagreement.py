"""The statistic of SCE: where the models disagree most, and how far each has moved there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from graftwork.kernels.arrays import empty, reinterpreted, zeros
from graftwork.kernels.gram import gram
from graftwork.kernels.nth_equal import nth_equal
from graftwork.kernels.sparse_combine import Mask, sparse_combine
from graftwork.kernels.ties_combine import KEEP_EQUAL
from graftwork.kernels.variance import variance
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.slices.slices import GRAIN, Array, Slice
from graftwork.merge.statistics.bands import EVERYTHING, NOTHING, Edge
from graftwork.merge.statistics.magnitudes import Tally
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope
from graftwork.merge.statistics.ranks import NEVER, Selection, cut_equals, settle

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The cut above which an element's variance over the models is kept, and each model's mean square there."""

    edge: Edge
    squares: tuple[float, ...]

    def chances(self, piece: Slice) -> Array | None:
        """1 where the slice's elements are kept, else 0; None where all are."""
        if self.edge == EVERYTHING:
            return None
        spread = _spread(piece)
        bits = reinterpreted(spread, "I32")
        kept = bits > self.edge[0]
        before = max(0, min(piece.size, self.edge[1] - piece.offset))
        kept[:before] |= bits[:before] == self.edge[0]
        chances = empty((piece.size,), "F32", like=spread)
        chances[...] = kept
        return chances


@dataclass(frozen=True, slots=True)
class Disagreements:
    """Keeps the int(topk * nonzero) elements of largest variance, of the elements whose variance is not 0."""

    topk: float
    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[Disagreement]:
        """The passes that find the cut, then one that adds up squares."""
        edge = EVERYTHING if self.topk == 1 else (yield from self._edge(extent))
        squares = np.zeros((extent.inputs, -(-extent.numel // GRAIN)))

        def add(piece: Slice) -> None:
            chances = Disagreement(edge, ()).chances(piece)
            if chances is None:
                products = gram(piece.inputs, piece.against_base())
            else:
                products = gram([_kept(piece, position, chances) for position in range(extent.inputs)], None)
            first = piece.offset // GRAIN
            squares[:, first : first + len(products)] = np.diagonal(products, axis1=1, axis2=2).T

        yield Pass(add)
        return Disagreement(edge, tuple(float(total) / max(extent.numel, 1) for total in squares.sum(axis=1)))

    @staticmethod
    def element_bytes(inputs: int) -> int:
        """The variance and the chances of an element, and what is kept of each model's difference."""
        return 4 * (inputs + 3)

    def _edge(self, extent: Extent) -> Measuring[Edge]:
        zeros = Tally()
        yield Pass(lambda piece: zeros.add(-1 - nth_equal(_spread(piece), None, 0, NEVER)))
        wanted = int(self.topk * (extent.numel - zeros.total))
        if wanted == 0:
            return NOTHING
        selections, inputs = {"variance": Selection(wanted)}, {"variance": 0}
        yield from _over_variances(settle(selections, inputs, extent))
        cutoffs = yield from _over_variances(cut_equals(selections, inputs))
        return selections["variance"].bits, cutoffs.get("variance", KEEP_EQUAL)


def _over_variances(measuring: Measuring[Result]) -> Measuring[Result]:
    """The same passes, over the variance of each slice as its one input."""

    def observer(observe: Callable[[Slice], None]) -> Callable[[Slice], None]:
        return lambda piece: observe(Slice(piece.tensor, piece.offset, None, (_spread(piece),), piece.seed))

    while True:
        try:
            visit = next(measuring)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        yield Pass(observer(visit.observe), visit.only)


def _spread(piece: Slice) -> Array:
    spread = empty((piece.size,), "F32", like=piece.against_base())
    variance(spread, piece.against_base(), piece.inputs)
    return spread


def _kept(piece: Slice, position: int, chances: Array) -> Array:
    """The differences of one model that are kept, float32."""
    deltas = empty((piece.size,), "F32", like=chances)
    weighted_sum(deltas, (piece.inputs[position], piece.against_base()), (1.0, -1.0))
    nothing = zeros((piece.size,), "F32", like=chances)
    sparse_combine(deltas, nothing, [deltas], [1.0], [Mask(chance=chances)], 0)
    return deltas
