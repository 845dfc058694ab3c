"""Elementwise methods on the changes b @ a of adapters, a few rows at a time.

A method sees slices as it does of whole tensors: the adapters' changes stand for the models, zeros for the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.algebra.algebra import cores
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.merge.method import Method
from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.passes import Extent, Measuring, Statistic

Matrix = NDArray[np.float32]

SLICE = 16 * GRAIN
"""Elements of a slice. It is the same for every setting: a product may round differently in other shapes."""
LINEAR: Mapping[str, Callable[[Any], bool]] = {
    "atlas_apply": lambda method: True,
    "ema_toward_mean": lambda method: True,
    "karcher": lambda method: True,
    "linear": lambda method: True,
    "model_stock": lambda method: not method.filter_wise,
    "multislerp": lambda method: True,
    "nuslerp": lambda method: bool(method.nuslerp_flatten),
    "passthrough": lambda method: True,
    "slerp": lambda method: True,
    "task_arithmetic": lambda method: True,
    "twin_shared": lambda method: True,
}
"""Methods whose result is a weighted sum of the matrices, with weights that depend on them through their dot products
alone; for some only with certain parameters. They are computed on factors, without the matrices."""


@dataclass(frozen=True, slots=True)
class Change:
    """A matrix [out, in] given by its rows: a product of factors, a matrix itself, or zeros where both are None."""

    width: int
    factors: LoraFactors | None = None
    matrix: Matrix | None = None

    def rows(self, start: int, stop: int) -> Matrix:
        """Rows `start` .. `stop`, float32."""
        if self.matrix is not None:
            return self.matrix[start:stop]
        if self.factors is not None:
            product: Matrix = self.factors.b[start:stop] @ self.factors.a
            return product
        return np.zeros((stop - start, self.width), np.float32)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is merged for one module: the base, where the method has one, and a change for each adapter."""

    module: str
    shape: tuple[int, int]
    base: Change | None
    inputs: tuple[Change, ...]
    seed: int = 0

    @property
    def numel(self) -> int:
        """Elements of each matrix."""
        return self.shape[0] * self.shape[1]

    def piece(self, offset: int) -> Slice:
        """The slice that begins at a multiple of SLICE."""
        width = self.shape[1]
        end = min(offset + SLICE, self.numel)
        first, last = offset // width, -(-end // width)

        def part(change: Change) -> Matrix:
            flat = change.rows(first, last).reshape(-1)
            return np.ascontiguousarray(flat[offset - first * width : end - first * width])

        base = None if self.base is None else part(self.base)
        inputs = tuple(part(change) for change in self.inputs)
        return Slice(self.module, offset, base, inputs, self.seed, self.shape)


def measure(statistic: Statistic[Any], extent: Extent, opened: Callable[[], Iterable[Changes]]) -> Any:
    """The result of a statistic over the modules that `opened` gives anew for every pass."""
    measuring: Measuring[Any] = statistic.measure(extent)
    while True:
        try:
            visit = next(measuring)
        except StopIteration as finished:
            return finished.value
        for changes in opened():
            for offset in range(0, changes.numel, SLICE):
                if visit.only is None or visit.only == offset:
                    visit.observe(changes.piece(offset))


def measure_module(method: Any, changes: Changes) -> Any:
    """What the method asks to know of one module."""
    statistic = method.statistic()
    if statistic is None or changes.numel == 0:
        return None
    return measure(statistic, Extent(changes.numel, len(changes.inputs), changes.shape), lambda: [changes])


def combine(method: Any, changes: Changes, measured: Any, scale: float) -> Matrix:
    """The merged change as a matrix, [out, in]."""
    out = np.empty(changes.numel, np.float32)
    for offset in range(0, changes.numel, SLICE):
        method.combine(out[offset : offset + SLICE], changes.piece(offset), measured, scale)
    return out.reshape(changes.shape)


def is_linear(method: Method, bound: Any) -> bool:
    """Whether the method with these parameters, and without modifiers around it, is a weighted sum as LINEAR means."""
    return method.name in LINEAR and type(bound) is method.kind and LINEAR[method.name](bound)


def weights(
    method: Any, module: str, base: LoraFactors | None, inputs: Sequence[LoraFactors], needs_base: bool
) -> list[float]:
    """The weights of the base, where it is an adapter, and of the inputs, for a method that is linear.

    The method measures the cores of the changes, which have the same dot products, and then combines unit vectors.
    """
    sides = [*([] if base is None else [base]), *inputs]
    small = [Change(0, matrix=core.astype(np.float32)) for core in cores(sides)]
    shape = cores_shape(small)
    zeros = Change(shape[1]) if needs_base else None
    first = small.pop(0) if base is not None else zeros
    measured = measure_module(method, Changes(module, shape, first, tuple(small)))
    units = np.eye(len(sides), dtype=np.float32)
    out = np.empty(len(sides), np.float32)
    probe = units[0] if base is not None else np.zeros(len(sides), np.float32) if needs_base else None
    piece = Slice(module, 0, probe, tuple(units[len(sides) - len(inputs) :]), 0, out.shape)
    method.combine(out, piece, measured, 1.0)
    return [float(weight) for weight in out]


def cores_shape(changes: Sequence[Change]) -> tuple[int, int]:
    """The shape that all cores share."""
    matrix = changes[0].matrix
    return (0, 0) if matrix is None else (int(matrix.shape[0]), int(matrix.shape[1]))
