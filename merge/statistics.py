"""Statistics of whole tensors and whole models, measured exactly over slices.

A statistic is measured by a generator. Each value it yields is one pass: a function that the engine calls once for
every slice, from any thread, in any order. What it returns is the result. Counts are integers, and sums of floats are
kept by block and added in index order, so that a result depends neither on the slices nor on the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.gram import gram
from graftwork.kernels.magnitude_histogram import magnitude_histogram
from graftwork.kernels.nth_equal import nth_equal
from graftwork.kernels.ties_combine import KEEP_EQUAL
from graftwork.kernels.ties_votes import ties_votes
from graftwork.merge.slices import GRAIN, Slice

Scope = Literal["tensor", "model"]
Result = TypeVar("Result", covariant=True)
NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Extent:
    """What a statistic is measured over: the elements of one tensor, or of all tensors of a model."""

    numel: int
    inputs: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One visit to every slice, or to the slice at `only`."""

    observe: Callable[[Slice], None]
    only: int | None = None


Measuring = Generator[Pass, None, Result]


class Statistic(Protocol[Result]):
    """Equal statistics of the same tensors have equal results."""

    @property
    def scope(self) -> Scope:
        """Whether it is measured over each tensor or over the whole model."""

    def measure(self, extent: Extent) -> Measuring[Result]:
        """The passes, then the result."""


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

    density: the fraction to keep, by input; 1 keeps everything
    exact:   True keeps max(1, int(density * n)) entries, equal magnitudes by lowest flat index (mergekit);
             False keeps every entry not smaller than the (n - int(density * n))-th smallest (the TIES paper's code)
    """

    density: tuple[float, ...]
    exact: bool
    scope: Scope

    def measure(self, extent: Extent) -> Measuring[Cut]:
        """Two histograms give the threshold; where it divides equal magnitudes, two more passes find the index."""
        selections = {
            position: Selection(self._rank(density, extent.numel))
            for position, density in enumerate(self.density)
            if density < 1
        }
        if selections:
            for _ in ("high bits", "low bits"):
                yield Pass(_histograms(selections))
                for selection in selections.values():
                    selection.settle()
        cutoffs = [KEEP_EQUAL] * len(self.density)
        if self.exact:
            for position, selection in selections.items():
                if selection.wanted < selection.equal:
                    cutoffs[position] = yield from _index_after(position, selection.bits, selection.wanted)
        return Cut(
            tuple(selections[position].bits if position in selections else 0 for position in range(len(self.density))),
            tuple(cutoffs),
        )

    def _rank(self, density: float, numel: int) -> int:
        kept = int(density * numel)
        return max(1, kept) if self.exact else kept + 1


class Selection:
    """The `rank`-th largest magnitude, found by its high and then by its low 16 bits."""

    def __init__(self, rank: int) -> None:
        self.wanted = rank
        """How many of the magnitudes inside the bin found so far are wanted."""
        self.equal = 0
        """How many magnitudes the bin found so far holds."""
        self.bits = 0
        self.prefix: int | None = None
        self._counts: NDArray[np.int64] | None = None
        self._lock = Lock()

    def add(self, counts: NDArray[np.int64]) -> None:
        """Add the histogram of one slice."""
        with self._lock:
            if self._counts is None:
                self._counts = counts.copy()
            else:
                self._counts += counts

    def settle(self) -> None:
        """Choose the bin that holds the rank and begin the next, finer histogram."""
        if self._counts is None:
            raise ValueError("a selection needs a histogram")
        from_above = np.cumsum(self._counts[::-1])
        place = int(np.searchsorted(from_above, self.wanted))
        chosen = len(self._counts) - 1 - place
        self.equal = int(self._counts[chosen])
        self.wanted -= int(from_above[place]) - self.equal
        self.bits = chosen if self.prefix is None else (self.prefix << 16) | chosen
        self.prefix = chosen if self.prefix is None else self.prefix
        self._counts = None


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


@dataclass
class BlockSums:
    """Sums by block of one tensor after another, added in index order and tensor by tensor."""

    by_tensor: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def reserve(self, tensor: str, numel: int) -> None:
        """Make room for a tensor; the order of these calls is the order of the final sum."""
        self.by_tensor[tensor] = np.zeros(-(-numel // GRAIN))

    def put(self, tensor: str, offset: int, sums: NDArray[np.float64]) -> None:
        """Keep the block sums of the slice at `offset`."""
        first = offset // GRAIN
        self.by_tensor[tensor][first : first + len(sums)] = sums

    def total(self) -> float:
        """The sum of everything."""
        return float(sum(float(sums.sum()) for sums in self.by_tensor.values()))


def _histograms(selections: dict[int, Selection]) -> Callable[[Slice], None]:
    def observe(piece: Slice) -> None:
        for position, selection in selections.items():
            selection.add(magnitude_histogram(piece.inputs[position], piece.base, selection.prefix))

    return observe


def _index_after(position: int, bits: int, wanted: int) -> Measuring[int]:
    """The flat index just after the `wanted`-th element (from 1) of an input whose magnitude has these bits."""
    counts: dict[int, int] = {}

    def count(piece: Slice) -> None:
        counts[piece.offset] = -1 - nth_equal(piece.inputs[position], piece.base, bits, NEVER)

    yield Pass(count)
    offset = 0
    for offset in sorted(counts):
        if wanted <= counts[offset]:
            break
        wanted -= counts[offset]
    found: list[int] = []

    def locate(piece: Slice) -> None:
        found.append(piece.offset + nth_equal(piece.inputs[position], piece.base, bits, wanted - 1))

    yield Pass(locate, only=offset)
    return found[0] + 1
