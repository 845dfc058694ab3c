"""Tensors as slices: read from the sources piece by piece, or held in memory while they are measured and merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.models.readers import files_beneath
from graftwork.merge.models.sources import Source
from graftwork.merge.plan.plan import Operand, Plan, TensorPlan
from graftwork.merge.slices.buffers import Buffers, HostArray, as_bytes
from graftwork.merge.slices.slices import GRAIN, Array, Slice
from graftwork.merge.statistics.passes import is_by_row, row_width
from graftwork.registry.formats.safetensors import DTYPE_BYTES

LONGEST_SPAN = 16 * GRAIN
"""Elements that one thread works on before it takes the next task."""
LONGEST_ALONE = 64 * GRAIN
"""Elements of the largest tensor that one thread merges alone, from reading to writing."""


@dataclass(frozen=True, slots=True)
class Held:
    """Every operand of one tensor in memory, in full."""

    arrays: tuple[Array, ...]


class Intake:
    """Reads the plan's tensors within its memory limit, which three parties share.

    Each thread has buffers for one slice, and for a whole tensor of up to `alone` elements. Larger tensors are read
    anew for every pass: after the first the system holds them. What is left of the limit is for those that are computed
    as they are read, one or more at a time.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.buffers = Buffers()
        self.slice = plan.slice_elements
        self.span = max(self.slice, LONGEST_SPAN // self.slice * self.slice)
        share = plan.memory // (4 * plan.threads * plan.element_bytes)
        self.alone = max(self.slice, min(share, LONGEST_ALONE))
        self.longest = self.alone
        """Elements of a slice that is longer than others for the sake of whole rows."""
        self._left = plan.memory - plan.threads * plan.element_bytes * (self.slice + self.alone)
        self._lock = Lock()

    def slices(self, tensor: TensorPlan, start: int, stop: int, held: Held | None) -> Iterator[Slice]:
        """The slices of a span, each valid until the next is asked for."""
        step = self.step(tensor)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if held is not None:
                yield slice_of(tensor, first, tuple(array[first:last] for array in held.arrays), self.plan)
            else:
                yield slice_of(tensor, first, self._read(tensor, first, last), self.plan)

    def step(self, tensor: TensorPlan) -> int:
        """Elements of a slice of a tensor: of whole rows, where its statistic goes by row and so many fit."""
        if not is_by_row(tensor.statistic):
            return self.slice
        rows = math.lcm(GRAIN, row_width(tensor.shape))
        return max(rows, self.slice // rows * rows) if rows <= self.longest else self.slice

    def stride(self, tensor: TensorPlan) -> int:
        """Elements of a span of a tensor: of whole slices."""
        step = self.step(tensor)
        return max(step, self.span // step * step)

    def hold_alone(self, tensor: TensorPlan) -> Held:
        """Read a tensor of at most `alone` elements into the calling thread's buffers."""
        return Held(self._read(tensor, 0, tensor.numel))

    def is_cached(self, tensor: TensorPlan) -> bool:
        """Whether what is read again comes from the system's cache of files, as cheaply as from memory of our own.

        To take that memory costs a pass itself: the system clears every page of it first.
        """
        return all(files_beneath(self.plan.sources[operand.source]) for operand in tensor.operands)

    def reserve(self, tensor: TensorPlan) -> Held | None:
        """Room for a tensor, to be filled by `fill`, or None where there is none."""
        with self._lock:
            if operand_bytes(tensor) > self._left:
                return None
            self._left -= operand_bytes(tensor)
        return Held(tuple(self._room(operand.dtype, tensor.numel) for operand in tensor.operands))

    def fill(self, held: Held, tensor: TensorPlan, start: int, stop: int) -> None:
        """Read a span of every operand."""
        for operand, array in zip(tensor.operands, held.arrays, strict=True):
            self._fill(operand, start, array[start:stop])

    def release(self, tensor: TensorPlan) -> None:
        """Give the room of a tensor back, which nothing refers to any more."""
        with self._lock:
            self._left += operand_bytes(tensor)

    def prefetch(self, tensor: TensorPlan, start: int, stop: int) -> None:
        """Have the system read a span of every operand that it does not hold yet."""
        stop = min(stop, tensor.numel)
        for operand in tensor.operands:
            source = self.plan.sources[operand.source]
            if start < stop and isinstance(source, Source):
                size = DTYPE_BYTES[operand.dtype]
                source.prefetch(operand.tensor, start * size, (stop - start) * size)

    def output(self, tensor: TensorPlan, piece: Slice) -> Array:
        """Where the calling thread writes a slice of the output."""
        return self.buffers.array("out", tensor.dtype, piece.size)

    def deliver(self, out: Any, tensor: TensorPlan, then: Callable[[HostArray], None]) -> None:
        """Call `then` with a slice of the output once it is in host memory: at the latest when its span ends."""
        then(out)

    def _room(self, dtype: str, length: int) -> Array:
        return np.empty(length, numpy_dtype(dtype))

    def _read(self, tensor: TensorPlan, start: int, stop: int) -> tuple[Array, ...]:
        arrays = []
        for position, operand in enumerate(tensor.operands):
            array = self.buffers.array(f"operand {position}", operand.dtype, stop - start)
            self._fill(operand, start, array)
            arrays.append(array)
        return tuple(arrays)

    def _fill(self, operand: Operand, start: int, array: Any) -> None:
        """Read into an array of the host slice by slice, because a view needs room for what it computes from."""
        source, size = self.plan.sources[operand.source], DTYPE_BYTES[operand.dtype]
        for first in range(0, len(array), self.slice):
            source.read(operand.tensor, (start + first) * size, as_bytes(array[first : first + self.slice]))


def open_intake(plan: Plan) -> Intake:
    """What reads the plan's tensors to where they are merged: into host memory, or onto a device."""
    if plan.settings.device == "cpu":
        return Intake(plan)
    from graftwork.merge.run.device_intake import DeviceIntake

    return DeviceIntake(plan)


def operand_bytes(tensor: TensorPlan) -> int:
    """Bytes of all operands of a tensor."""
    return tensor.numel * sum(DTYPE_BYTES[operand.dtype] for operand in tensor.operands)


def slice_of(tensor: TensorPlan, offset: int, arrays: tuple[Array, ...], plan: Plan) -> Slice:
    """The slice at `offset` of a tensor, from those of its operands."""
    base, inputs = (None, arrays) if tensor.base is None else (arrays[0], arrays[1:])
    return Slice(tensor.stream, offset, base, inputs, plan.recipe.seed, tensor.shape)
