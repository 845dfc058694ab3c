"""A model whose embeddings are read in the order of another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.readers import Overlay, Reader
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located

Vector = NDArray[np.float32]
MEAN = -2
"""In place of a row: the mean of the rows of all tokens, for rows that no token has."""
SUBSTITUTE = -1
"""In place of a row: look it up among the substitutes."""
BLOCK = 1024
"""Rows whose sum is taken at one time."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row of one of the models that are merged together."""

    reader: Reader
    row: int


@dataclass(frozen=True, slots=True)
class Rows:
    """For each row of the output the model's own row, or SUBSTITUTE, or MEAN.

    A substitute is the mean of some rows of the models, in order; of none it is zeros.
    """

    own: NDArray[np.int64]
    substitutes: Mapping[int, Sequence[Place]]

    def are_those_of(self, rows: int) -> bool:
        """Whether nothing changes for a model that has `rows` rows."""
        return len(self.own) == rows and bool(np.array_equal(self.own, np.arange(rows)))


@dataclass(slots=True)
class AlignedModel(Overlay):
    """A reader of `inner` whose `tensors` are float32 and have a row for each token of the output."""

    inner: Reader
    rows: Rows
    tensors: frozenset[str]
    layout: CheckpointLayout
    _means: dict[str, Vector] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` from the tensor's byte `start` on."""
        name = tensor.info.name
        if name not in self.tensors:
            self.inner.read(tensor, start, into)
            return
        out = np.frombuffer(into, np.float32)
        columns = _columns(tensor)
        begin = place = start // out.itemsize
        end = begin + out.size
        while place < end:
            row, column = divmod(place, columns)
            count = self._run(row, -(-end // columns))
            length = min(count * columns - column, end - place)
            target = out[place - begin :][:length]
            if count > 1 or self.rows.own[row] >= 0:
                self._copy(name, int(self.rows.own[row]) * columns + column, target)
            else:
                target[:] = self._vector(name, row, columns)[column : column + length]
            place += length

    def _run(self, row: int, end: int) -> int:
        """How many rows from `row` on, and before `end`, follow each other in the model too."""
        own = self.rows.own[row:end]
        if own[0] < 0:
            return 1
        broken = np.flatnonzero(own != own[0] + np.arange(len(own)))
        return int(broken[0]) if len(broken) else len(own)

    def _copy(self, name: str, start: int, target: Vector) -> None:
        _read_elements(self.inner, name, start, target)

    def _vector(self, name: str, row: int, columns: int) -> Vector:
        if self.rows.own[row] == MEAN:
            return self._mean(name, columns)
        total = np.zeros(columns, np.float32)
        places = self.rows.substitutes[row]
        for place in places:
            values = np.empty(columns, np.float32)
            _read_elements(place.reader, name, place.row * columns, values)
            total += values
        return total / np.float32(len(places)) if len(places) > 1 else total

    def _mean(self, name: str, columns: int) -> Vector:
        """The mean over the rows of all tokens, summed in float64, block by block from the first."""
        with self._lock:
            if name not in self._means:
                tokens = np.flatnonzero(self.rows.own != MEAN)
                total = np.zeros(columns)
                for begin in range(0, len(tokens), BLOCK):
                    block = tokens[begin : begin + BLOCK]
                    values = np.empty((len(block), columns), np.float32)
                    for position, row in enumerate(block):
                        if self.rows.own[row] >= 0:
                            self._copy(name, int(self.rows.own[row]) * columns, values[position])
                        else:
                            values[position] = self._vector(name, int(row), columns)
                    total += values.sum(axis=0, dtype=np.float64)
                self._means[name] = (total / max(1, len(tokens))).astype(np.float32)
            return self._means[name]


def align(inner: Reader, rows: Rows, names: frozenset[str]) -> Reader:
    """The reader with the rows of the tensors `names` rearranged; `inner` itself where nothing changes."""
    if all(rows.are_those_of(inner.layout.tensors[name].info.shape[0]) for name in names):
        return inner
    tensors = dict(inner.layout.tensors)
    for name in names:
        info = tensors[name].info
        shape = (len(rows.own), *info.shape[1:])
        aligned = replace(info, dtype="F32", shape=shape)
        tensors[name] = replace(tensors[name], info=replace(aligned, end=info.begin + 4 * aligned.numel))
    return AlignedModel(inner, rows, names, replace(inner.layout, tensors=tensors))


def _columns(tensor: Located) -> int:
    columns = 1
    for size in tensor.info.shape[1:]:
        columns *= size
    return columns


def _read_elements(reader: Reader, name: str, start: int, target: Vector) -> None:
    located = reader.layout.tensors[name]
    stored = np.empty(target.size, numpy_dtype(located.info.dtype))
    reader.read(located, start * stored.itemsize, stored.view(np.uint8).data)
    target[:] = stored.astype(np.float32)
