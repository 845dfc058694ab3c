"""DELLA's keep probabilities by rank, and their statistic: those of the rows that slices divide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.arrays import beside, empty, on_host
from graftwork.kernels.rank_chances import rank_chances
from graftwork.kernels.sparse_combine import ByRank, Mask
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.slices.streams import stream_keys
from graftwork.merge.statistics.masking import Factors
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope, row_width

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowChances:
    """Chances by the rank of a magnitude in its row, from `low` to `high` of each input; the same where those are one.

    Rows that lie in one slice are ranked as they are combined. The others are collected in one pass and held, float32
    for each of their elements and inputs, until their tensor is done: two rows a slice at most, or, for rows longer
    than a slice, the tensor. There are none where slices are of whole rows.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    scope: Scope = "tensor"
    by_row: ClassVar[bool] = True

    def measure(self, extent: Extent) -> Measuring[Mapping[int, list[Floats]]]:
        """The chances of the divided rows by row: for each input float32 [width]."""
        width = row_width(extent.shape)
        rows: dict[int, list[Floats]] = {}
        if extent.numel <= extent.step or extent.step % width == 0:
            return rows
        lock = Lock()

        def collect(piece: Slice) -> None:
            for row, begin, end in divided(piece, width):
                with lock:
                    if row not in rows:
                        rows[row] = [np.empty(width, np.float32) for _ in range(extent.inputs)]
                place = slice(piece.offset + begin - row * width, piece.offset + end - row * width)
                base = piece.against_base()[begin:end]
                for values, x in zip(rows[row], piece.inputs, strict=True):
                    deltas = empty((end - begin,), "F32", like=base)
                    weighted_sum(deltas, (x[begin:end], base), (1.0, -1.0))
                    values[place] = on_host(deltas)

        yield Pass(collect)
        for values in rows.values():
            for position, deltas in enumerate(values):
                rank_chances(deltas, deltas.copy(), None, width, self.low[position], self.high[position])
        return rows

    def masks(
        self, piece: Slice, measured: Mapping[int, list[Floats]], factors: Factors
    ) -> Iterator[tuple[slice, list[Mask]]]:
        """The slice in parts that follow one another, each with a mask for every input."""
        width = row_width(piece.shape)
        ends = {begin: (row, end) for row, begin, end in divided(piece, width)}
        begin = 0
        while begin < piece.size:
            chances: Sequence[Array | ByRank]
            if begin in ends:
                row, end = ends[begin]
                place = slice(piece.offset + begin - row * width, piece.offset + end - row * width)
                chances = [beside(values[place], like=piece.against_base()) for values in measured[row]]
            else:
                end = begin + (piece.size - begin) // width * width
                chances = [ByRank(low, high, width) for low, high in zip(self.low, self.high, strict=True)]
            yield (
                slice(begin, end),
                [
                    Mask(chance=low if low == high else chance, key=key, factor=factor)
                    for low, high, chance, key, factor in zip(
                        self.low, self.high, chances, stream_keys(piece), factors, strict=True
                    )
                ],
            )
            begin = end


def divided(piece: Slice, width: int) -> Iterator[tuple[int, int, int]]:
    """The rows of which only a part lies in the slice: the row, and begin and end of the part within the slice."""
    first, last = piece.offset // width, (piece.offset + piece.size - 1) // width
    for row in sorted({first, last}):
        begin = max(0, row * width - piece.offset)
        end = min(piece.size, (row + 1) * width - piece.offset)
        if end - begin < width:
            yield row, begin, end
