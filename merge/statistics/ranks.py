"""Exact order statistics of magnitudes: the patterns at given ranks, with no sort of the whole.

Where passes are cheap, a sample brackets each rank and one pass collects the few magnitudes inside the bracket. A rank
that the bracket misses, or whose bracket holds too many, is found as all ranks are where passes read from a disk: by a
histogram of the high bits and one of the low bits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.arrays import empty, on_host
from graftwork.kernels.magnitude_histogram import magnitude_histogram
from graftwork.kernels.magnitudes_between import magnitudes_between
from graftwork.kernels.nth_equal import nth_equal
from graftwork.merge.slices.buffers import Buffers
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.passes import Extent, Measuring, Pass

RUN = 64
"""Neighbouring elements of a sample: a few cache lines."""
SAMPLE = 49_152
"""About how many elements are sampled."""
SMALL = 65_536
"""Elements of a tensor whose magnitudes are collected without a bracket."""
DEVIATIONS = 5.0
"""How far from a rank its bracket reaches, in standard deviations of a sampled rank."""
HIGHEST = 2**31 - 1
NEVER = 2**62

_BUFFERS = Buffers()

Place = TypeVar("Place", bound=Hashable)


class Selection:
    """The `rank`-th largest magnitude, found by its high and then by its low 16 bits, or at once."""

    def __init__(self, rank: int) -> None:
        self.wanted = rank
        """How many of the magnitudes inside the bin found so far are wanted."""
        self.equal = 0
        """How many magnitudes the bin found so far holds."""
        self.bits = 0
        self.equals: Mapping[int, int] | None = None
        """How many magnitudes the slice at each offset holds that have these bits, where that is known."""
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

    def found(self, bits: int, wanted: int, equals: Mapping[int, int]) -> None:
        """Take the result of another way: `wanted` of the magnitudes with these bits complete the rank."""
        self.bits, self.wanted, self.equal, self.equals = bits, wanted, sum(equals.values()), equals


def settle(selections: Mapping[Place, Selection], inputs: Mapping[Place, int], extent: Extent) -> Measuring[None]:
    """Find every selection's magnitude among those of its input; two passes over what is resident, else two anyway."""
    left = dict(selections)
    if extent.resident and left:
        brackets = dict.fromkeys(left, (-1, HIGHEST))
        if extent.numel > SMALL:
            brackets = yield from _sample(left, inputs, extent)
        collected = {position: _Brackets() for position in inputs.values()}
        for place, bracket in brackets.items():
            collected[inputs[place]].ends[place] = bracket

        def collect(piece: Slice) -> None:
            for position, around in collected.items():
                around.add(piece, position, extent.numel)

        yield Pass(collect)
        left = {place: each for place, each in left.items() if not collected[inputs[place]].answers(place, each)}
    if left:
        yield from _by_histograms(left, inputs)


def cut_equals(selections: Mapping[Place, Selection], inputs: Mapping[Place, int]) -> Measuring[dict[Place, int]]:
    """For selections that divide equal magnitudes the flat index just after the last that is wanted, lowest first."""
    divided = {place: selection for place, selection in selections.items() if selection.wanted < selection.equal}
    uncounted = [place for place, selection in divided.items() if selection.equals is None]
    counts: dict[Place, dict[int, int]] = {place: dict(divided[place].equals or {}) for place in divided}
    cutoffs: dict[Place, int] = {}

    def nth(piece: Slice, place: Place, n: int) -> int:
        return nth_equal(piece.inputs[inputs[place]], piece.base, divided[place].bits, n)

    def count(piece: Slice) -> None:
        for place in uncounted:
            counts[place][piece.offset] = -1 - nth(piece, place, NEVER)

    if uncounted:
        yield Pass(count)
    for place, selection in divided.items():
        wanted, offset = selection.wanted, 0
        for offset in sorted(counts[place]):
            if wanted <= counts[place][offset]:
                break
            wanted -= counts[place][offset]

        def locate(piece: Slice, place: Place = place, n: int = wanted - 1) -> None:
            cutoffs[place] = piece.offset + nth(piece, place, n) + 1

        yield Pass(locate, only=offset)
    return cutoffs


def _by_histograms(selections: Mapping[Place, Selection], inputs: Mapping[Place, int]) -> Measuring[None]:
    def observe(piece: Slice) -> None:
        counted: dict[tuple[int, int | None], NDArray[np.int64]] = {}
        for place, selection in selections.items():
            key = inputs[place], selection.prefix
            if key not in counted:
                counted[key] = magnitude_histogram(piece.inputs[inputs[place]], piece.base, selection.prefix)
            selection.add(counted[key])

    for _ in ("high bits", "low bits"):
        yield Pass(observe)
        for selection in selections.values():
            selection.settle()


def _sample(
    selections: Mapping[Place, Selection], inputs: Mapping[Place, int], extent: Extent
) -> Measuring[dict[Place, tuple[int, int]]]:
    """For each selection two patterns that are unlikely not to have its magnitude between them."""
    stride = RUN * max(1, extent.numel // SAMPLE)
    sampled: dict[int, list[NDArray[np.int32]]] = {position: [] for position in inputs.values()}

    def observe(piece: Slice) -> None:
        for position, parts in sampled.items():
            parts.append(_sampled_bits(piece.inputs[position], piece.base, stride))

    yield Pass(observe)
    ordered = {position: np.sort(np.concatenate(parts)) for position, parts in sampled.items()}
    return {
        place: _bracket(ordered[inputs[place]], (extent.numel - selection.wanted + 0.5) / extent.numel)
        for place, selection in selections.items()
    }


def _sampled_bits(x: Array, base: Array | None, stride: int) -> NDArray[np.int32]:
    def part(array: Array) -> NDArray[np.float32]:
        whole = array[: len(array) // stride * stride].reshape(-1, stride)[:, :RUN]
        return on_host(whole).astype(np.float32)

    with np.errstate(all="ignore"):
        difference = part(x) if base is None else part(x) - part(base)
    return np.abs(difference).reshape(-1).view(np.int32)


def _bracket(ordered: NDArray[np.int32], share: float) -> tuple[int, int]:
    """Patterns around the one that `share` of a sample in rising order stand below."""
    count = len(ordered)
    middle = share * count
    reach = DEVIATIONS * math.sqrt(count * share * (1 - share)) + RUN
    low, high = math.floor(middle - reach), math.ceil(middle + reach)
    return (int(ordered[low]) if low >= 0 else -1, int(ordered[high]) if high < count else HIGHEST)


@dataclass(frozen=True, slots=True)
class _Around:
    """What one slice has above a bracket, at its high end, inside and at its low end."""

    counts: NDArray[np.int64]
    inside: NDArray[np.int32]


@dataclass
class _Brackets:
    """The brackets in which the selections of one input are looked for, in one pass, and what stands in and around."""

    ends: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    slices: dict[int, list[_Around]] = field(default_factory=dict)
    """By offset; for each bracket."""

    def add(self, piece: Slice, position: int, numel: int) -> None:
        """Count and collect one slice."""
        x = piece.inputs[position]
        counts = empty((len(self.ends), 4), "I64", like=x)
        room = piece.size if numel <= SMALL else piece.size // 8
        values = _BUFFERS.array("values", "I32", len(self.ends) * room, x).reshape(len(self.ends), room)
        magnitudes_between(counts, values, x, piece.base, list(self.ends.values()))
        self.slices[piece.offset] = [
            _Around(count, on_host(found[: int(count[2])]).copy())
            for count, found in zip(on_host(counts), values, strict=True)
        ]

    def answers(self, place: Hashable, selection: Selection) -> bool:
        """Give the selection its magnitude, if it is here."""
        index = list(self.ends).index(place)
        low, high = self.ends[place]
        around = {offset: parts[index] for offset, parts in self.slices.items()}
        above, at_high, between, at_low = map(int, np.sum([part.counts for part in around.values()], axis=0))
        rank = selection.wanted - above
        if 0 < rank <= at_high:
            selection.found(high, rank, {offset: int(part.counts[1]) for offset, part in around.items()})
            return True
        rank -= at_high
        values = np.concatenate([part.inside for part in around.values()])
        if 0 < rank <= between and len(values) == between:
            bits = int(np.partition(values, between - rank)[between - rank])
            equals = {offset: int(np.count_nonzero(part.inside == bits)) for offset, part in around.items()}
            selection.found(bits, rank - int(np.count_nonzero(values > bits)), equals)
            return True
        rank -= between
        if 0 < rank <= at_low:
            selection.found(low, rank, {offset: int(part.counts[3]) for offset, part in around.items()})
            return True
        return False
