"""Statistics of whole tensors and whole models, measured exactly over slices."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.gram import gram
from graftwork.kernels.sparse_combine import LARGEST
from graftwork.kernels.ties_combine import KEEP_EQUAL
from graftwork.kernels.ties_votes import ties_votes
from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope
from graftwork.merge.statistics.ranks import Selection, cut_equals, settle


@dataclass(frozen=True, slots=True)
class Cut:
    """For each input the magnitude, as float32 bits, that divides the kept deltas from the trimmed ones.

    Larger magnitudes are kept; equal ones where the flat index lies before the cutoff.
    """

    thresholds: tuple[int, ...]
    cutoffs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LargestMagnitudes:
    """The cut that keeps the largest deltas of each input.

    density: the fraction to keep, by input; 1 keeps everything, 0 nothing
    exact:   True keeps max(1, int(density * n)) entries, equal magnitudes by lowest flat index (mergekit);
             False keeps every entry not smaller than the (n - int(density * n))-th smallest (the TIES paper's code)
    """

    density: tuple[float, ...]
    exact: bool
    scope: Scope

    def measure(self, extent: Extent) -> Measuring[Cut]:
        """The magnitude of the last entry that is kept; where it divides equal ones, two more passes find the index."""
        selections = {
            position: Selection(self._rank(density, extent.numel))
            for position, density in enumerate(self.density)
            if 0 < density < 1
        }
        inputs = {position: position for position in selections}
        yield from settle(selections, inputs, extent)
        thresholds = [0 if density else LARGEST for density in self.density]
        cutoffs = [KEEP_EQUAL if density else 0 for density in self.density]
        if self.exact:
            for position, cutoff in (yield from cut_equals(selections, inputs)).items():
                cutoffs[position] = cutoff
        for position, selection in selections.items():
            thresholds[position] = selection.bits
        return Cut(tuple(thresholds), tuple(cutoffs))

    def _rank(self, density: float, numel: int) -> int:
        kept = int(density * numel)
        return max(1, kept) if self.exact else kept + 1


@dataclass(frozen=True, slots=True)
class SignMajority:
    """The sign that most coordinates of the trimmed model have, as the TIES paper uses it for coordinates without one.

    The majority counts signs, not mass; a draw is +1.
    """

    trim: LargestMagnitudes

    @property
    def scope(self) -> Scope:
        """The majority is that of the whole model."""
        return self.trim.scope

    def measure(self, extent: Extent) -> Measuring[tuple[Cut, int]]:
        """The passes of the trim, then one that counts votes."""
        cut = yield from self.trim.measure(extent)
        tally = Tally()

        def count(piece: Slice) -> None:
            tally.add(ties_votes(piece.against_base(), piece.inputs, cut.thresholds, cut.cutoffs, piece.offset))

        yield Pass(count)
        return cut, 1 if tally.total >= 0 else -1


class Tally:
    """A sum of integers from several threads."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = Lock()

    def add(self, amount: int) -> None:
        """Add `amount`."""
        with self._lock:
            self.total += amount


@dataclass(frozen=True, slots=True)
class DotProducts:
    """The matrix of dot products of the base (first) and the inputs of one tensor, float64[1 + n, 1 + n]."""

    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[NDArray[np.float64]]:
        """One pass; the blocks are added in index order."""
        sides = extent.inputs + 1
        blocks = np.zeros((-(-extent.numel // GRAIN), sides, sides))

        def multiply(piece: Slice) -> None:
            products = gram((piece.against_base(), *piece.inputs), None)
            first = piece.offset // GRAIN
            blocks[first : first + len(products)] = products

        yield Pass(multiply)
        total: NDArray[np.float64] = blocks.sum(axis=0)
        return total
