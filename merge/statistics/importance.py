"""How much each parameter's change matters for the distribution its row stands for: the scores of arcee_fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.arrays import on_host
from graftwork.kernels.magnitude_histogram import magnitude_histogram
from graftwork.kernels.row_gram import count_parts
from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.inner_products import Grid, part_starts
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
INTERQUARTILE_RANGES = np.float32(1.5)


@dataclass(frozen=True, slots=True)
class Importance:
    """Scores |x - base| * KL(softmax(row of x) || softmax(row of base)), and the score above which one stands out.

    columns:     elements of a row
    divergences: float32[rows]
    threshold:   median + 1.5 interquartile ranges of the tensor's scores
    """

    columns: int
    divergences: Floats
    threshold: np.float32

    def scores(self, piece: Slice) -> Floats:
        """The scores of a slice, float32."""
        return _scores(piece, self.columns, self.divergences)

    def chosen(self, piece: Slice) -> NDArray[np.bool_]:
        """Where the score reaches the threshold; a NaN does."""
        return np.asarray(~(self.scores(piece) < self.threshold))


@dataclass(frozen=True, slots=True)
class FusionImportance:
    """The importance of one tensor of one model beside the base.

    Rows are the vectors along the last dimension. The divergence of a row is sum_j p_j (x_j - b_j) + log(sum_j e^b_j /
    sum_j e^x_j), p = softmax(x), in float64. The quartiles are the elements number (n - 1) q, rounded down, of the
    sorted scores, found exactly by two histograms.
    """

    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[Importance]:
        """One pass over the rows, two over the scores."""
        columns = Grid.of(extent, "rows").columns
        parts = np.zeros((count_parts(extent.numel, columns, 0), 4))

        def weigh(piece: Slice) -> None:
            for start in range(0, piece.size, GRAIN):
                terms = _row_terms(piece, start, columns)
                first = count_parts(piece.offset + start, columns, 0)
                parts[first : first + len(terms)] = terms

        yield Pass(weigh)
        divergences = _divergences(parts, part_starts(extent.numel, columns))
        places = [(extent.numel - 1) * quarter // 4 for quarter in (1, 2, 3)]
        low, median, high = yield from _smallest(places, columns, divergences)
        return Importance(columns, divergences, median + INTERQUARTILE_RANGES * (high - low))


def _row_terms(piece: Slice, start: int, columns: int) -> Doubles:
    """For each part of a row in one block: m = max(x, b), sum e^(x - m), sum e^(b - m), sum e^(x - m) (x - b)."""
    stop = min(start + GRAIN, piece.size)
    x = on_host(piece.inputs[0][start:stop]).astype(np.float64)
    base = on_host(piece.against_base()[start:stop]).astype(np.float64)
    before = (piece.offset + start) % columns
    starts = np.arange(-before, stop - start, columns)
    starts[0] = 0
    greatest = np.maximum.reduceat(np.maximum(x, base), starts)
    shift = np.repeat(greatest, np.diff(starts, append=stop - start))
    grown = np.exp(x - shift)
    terms = (grown, np.exp(base - shift), grown * (x - base))
    return np.stack([greatest, *(np.add.reduceat(term, starts) for term in terms)], axis=1)


def _divergences(parts: Doubles, starts: NDArray[np.int64]) -> Floats:
    greatest = np.maximum.reduceat(parts[:, 0], starts)
    rescale = np.exp(parts[:, 0] - np.repeat(greatest, np.diff(starts, append=len(parts))))
    of_model, of_base, moved = (np.add.reduceat(parts[:, term] * rescale, starts) for term in (1, 2, 3))
    divergence = moved / of_model + np.log1p((of_base - of_model) / of_model)
    return np.asarray(np.maximum(divergence, 0), np.float32)


def _scores(piece: Slice, columns: int, divergences: Floats) -> Floats:
    first = piece.offset // columns
    rows = divergences[first : -(-(piece.offset + piece.size) // columns)]
    before = piece.offset - first * columns
    lengths = np.full(len(rows), columns)
    lengths[0] -= before
    lengths[-1] += piece.size - lengths.sum()
    difference = on_host(piece.inputs[0]).astype(np.float32) - on_host(piece.against_base()).astype(np.float32)
    return np.asarray(np.abs(difference) * np.repeat(rows, lengths), np.float32)


def _smallest(places: Sequence[int], columns: int, divergences: Floats) -> Measuring[list[np.float32]]:
    """The scores at these places of the sorted scores, by the high and then by the low bits of float32."""
    prefixes: dict[int | None, NDArray[np.int64]] = {None: np.zeros(1 << 15, np.int64)}
    lock = Lock()

    def count(piece: Slice) -> None:
        scores = _scores(piece, columns, divergences)
        for prefix, total in prefixes.items():
            counts = magnitude_histogram(scores, None, prefix)
            with lock:
                np.add(total, counts, out=total)

    yield Pass(count)
    below = np.cumsum(prefixes.pop(None))
    high = [int(np.searchsorted(below, place, side="right")) for place in places]
    prefixes |= {prefix: np.zeros(1 << 16, np.int64) for prefix in high}
    yield Pass(count)
    found = []
    for place, prefix in zip(places, high, strict=True):
        inside = place - (int(below[prefix - 1]) if prefix else 0)
        low = int(np.searchsorted(np.cumsum(prefixes[prefix]), inside, side="right"))
        found.append(np.array([(prefix << 16) | low], np.uint32).view(np.float32)[0])
    return found
