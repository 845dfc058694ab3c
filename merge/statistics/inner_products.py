"""Dot products between the inputs of one tensor, or between their differences from the base, whole or by vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.arrays import on_host
from graftwork.kernels.axis_weighted_sum import Axis, axis_weighted_sum
from graftwork.kernels.gram import gram
from graftwork.kernels.row_gram import count_parts, row_gram
from graftwork.merge.slices.slices import GRAIN, Array, Slice
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope

Doubles = NDArray[np.float64]
Vectors = Literal["filters", "rows", "columns"]
"""filters: the slices of the first dimension; rows: the vectors along the last; columns: those along the first."""


@dataclass(frozen=True, slots=True)
class InputProducts:
    """The dot products of the inputs of one tensor, or of their differences from the base if there is one: [n, n]."""

    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[Doubles]:
        """One pass; the blocks are added in index order."""
        blocks = np.zeros((-(-extent.numel // GRAIN), extent.inputs, extent.inputs))

        def multiply(piece: Slice) -> None:
            products = gram(piece.inputs, piece.base)
            first = piece.offset // GRAIN
            blocks[first : first + len(products)] = products

        yield Pass(multiply)
        total: Doubles = blocks.sum(axis=0)
        return total


@dataclass(frozen=True, slots=True)
class Grid:
    """A tensor as a matrix with `columns` columns, whose rows or columns are the vectors that are combined."""

    columns: int
    axis: Axis

    @classmethod
    def of(cls, extent: Extent, vectors: Vectors) -> Grid:
        """The grid of a tensor; one of fewer than two dimensions is a single vector."""
        if len(extent.shape) < 2 or extent.numel == 0:
            return cls(max(extent.numel, 1), "row")
        if vectors == "rows":
            return cls(extent.shape[-1], "row")
        return cls(extent.numel // extent.shape[0], "column" if vectors == "columns" else "row")


@dataclass(frozen=True, slots=True)
class GridProducts:
    """The dot products of each vector of a grid: float64[vectors, n, n]."""

    grid: Grid
    products: Doubles

    def within(self, piece: Slice) -> Doubles:
        """The products of the vectors that the slice holds elements of."""
        if self.grid.axis == "column":
            return self.products
        columns = self.grid.columns
        return self.products[piece.offset // columns : -(-(piece.offset + piece.size) // columns)]

    def combine(self, out: Array, piece: Slice, weights: Doubles, scale: float) -> None:
        """A weighted sum of the slice's inputs with `weights` [vectors within, n]."""
        columns = self.grid.columns
        coefficients = np.ascontiguousarray(weights.T, np.float32)
        offset = piece.offset % columns
        axis_weighted_sum(out, piece.inputs, coefficients, columns, offset, self.grid.axis, piece.base, scale)


@dataclass(frozen=True, slots=True)
class VectorProducts:
    """What InputProducts is for a tensor, for each of its filters, rows or columns."""

    vectors: Vectors
    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[GridProducts]:
        """One pass."""
        grid = Grid.of(extent, self.vectors)
        products = yield from (_by_row if grid.axis == "row" else _by_column)(extent, grid.columns)
        return GridProducts(grid, products)


def part_starts(numel: int, columns: int) -> NDArray[np.int64]:
    """The index of the first part of each row, as `row_gram` cuts them, among those of the whole tensor."""
    ends = np.arange(0, numel, columns, dtype=np.int64) - 1
    starts = 1 + ends // columns + ends // GRAIN - ends // int(np.lcm(columns, GRAIN))
    return np.asarray(np.maximum(starts, 0), np.int64)


def _by_row(extent: Extent, columns: int) -> Measuring[Doubles]:
    parts = np.zeros((count_parts(extent.numel, columns, 0), extent.inputs, extent.inputs))

    def multiply(piece: Slice) -> None:
        products = row_gram(piece.inputs, columns, piece.offset, piece.base)
        first = count_parts(piece.offset, columns, 0)
        parts[first : first + len(products)] = products

    yield Pass(multiply)
    total: Doubles = np.add.reduceat(parts, part_starts(extent.numel, columns), axis=0)
    return total


def _by_column(extent: Extent, columns: int) -> Measuring[Doubles]:
    tree = PairwiseSum()

    def multiply(piece: Slice) -> None:
        for start in range(0, piece.size, GRAIN):
            tree.add((piece.offset + start) // GRAIN, _block_by_column(piece, start, columns))

    yield Pass(multiply)
    return tree.total()


def _block_by_column(piece: Slice, start: int, columns: int) -> Doubles:
    """The dot products by column of the elements of one block, float64[columns, n, n]."""
    stop = min(start + GRAIN, piece.size)
    before = (piece.offset + start) % columns
    rows = -(-(before + stop - start) // columns)
    values = np.zeros((len(piece.inputs), rows * columns))
    for position, x in enumerate(piece.inputs):
        own = on_host(x[start:stop]).astype(np.float32)
        if piece.base is not None:
            own -= on_host(piece.base[start:stop]).astype(np.float32)
        values[position, before : before + stop - start] = own
    matrices = values.reshape(len(values), rows, columns)
    products = np.empty((columns, len(values), len(values)))
    for i in range(len(values)):
        for j in range(i + 1):
            products[:, i, j] = products[:, j, i] = (matrices[i] * matrices[j]).sum(axis=0)
    return products


@dataclass
class PairwiseSum:
    """A sum of arrays by index, added pairwise in a tree that depends on their number alone, as they come in."""

    _waiting: dict[tuple[int, int], Doubles] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, index: int, values: Doubles) -> None:
        """Add one array; only those whose neighbour is still to come are kept."""
        with self._lock:
            level = 0
            while (neighbour := self._waiting.pop((level, index ^ 1), None)) is not None:
                values = values + neighbour
                level, index = level + 1, index >> 1
            self._waiting[level, index] = values

    def total(self) -> Doubles:
        """The sum of all."""
        ordered = [self._waiting[key] for key in sorted(self._waiting, reverse=True)]
        total = ordered[0]
        for values in ordered[1:]:
            total = total + values
        return total
