"""Tensors as slices on a device: read into pinned memory, copied up beside the computing, copied back beside both.

Each thread has a lane of its own, and reads and writes for it while the device works; the other threads' lanes keep
the device and the bus busy meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from graftwork.kernels.dtypes import torch_dtype
from graftwork.merge.device.accelerator import Accelerator
from graftwork.merge.device.lane import Lane, Slot, as_numpy
from graftwork.merge.plan.plan import Plan, TensorPlan
from graftwork.merge.run.intake import Held, Intake, slice_of
from graftwork.merge.slices.buffers import HostArray
from graftwork.merge.slices.slices import Array, Slice
from graftwork.registry.formats.safetensors import DTYPE_BYTES

SLICES = 16
"""Slices of a span: one thread works on them before it takes the next task, with its lane full but at both ends."""


class DeviceIntake(Intake):
    """An intake whose slices, and whose tensors that are held, are in the memory of a device.

    Of the memory limit there is as much on the device as on the host. Tensors that are copied stay on the host.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.span = max(self.span, SLICES * self.slice)
        self.longest = self.slice
        self._accelerator = Accelerator(plan.settings.device)
        self._local = threading.local()

    def slices(self, tensor: TensorPlan, start: int, stop: int, held: Held | None) -> Iterator[Slice]:
        """The slices of a span, each valid until the next is asked for; the next one is on its way up by then."""
        if tensor.method is None:
            yield from super().slices(tensor, start, stop, held)
            return
        lane = self._lane()
        with lane.drained():
            coming = None
            step = self.step(tensor)
            for first in range(start, stop, step):
                slot, piece = coming or self._bring(lane, tensor, first, min(first + step, stop), held)
                after = first + step
                coming = self._bring(lane, tensor, after, min(after + step, stop), held) if after < stop else None
                with lane.working_on(slot):
                    yield piece

    def is_cached(self, tensor: TensorPlan) -> bool:
        """Never: what is held is held on the device."""
        return False

    def hold_alone(self, tensor: TensorPlan) -> Held:
        """Read a tensor of at most `alone` elements into the calling thread's memory on the device."""
        room, operands = self._lane().whole, enumerate(tensor.operands)
        held = Held(tuple(room.array(f"operand {place}", operand.dtype, tensor.numel) for place, operand in operands))
        self.fill(held, tensor, 0, tensor.numel)
        return held

    def fill(self, held: Held, tensor: TensorPlan, start: int, stop: int) -> None:
        """Read a span of every operand."""
        lane = self._lane()
        with lane.drained():
            for first in range(start, stop, self.slice):
                last = min(first + self.slice, stop)
                self._send(lane, lane.next_slot(), tensor, first, [array[first:last] for array in held.arrays])

    def output(self, tensor: TensorPlan, piece: Slice) -> Array:
        """Where the calling thread computes a slice of the output."""
        return self._lane().present.array("out", tensor.dtype, piece.size)

    def deliver(self, out: Any, tensor: TensorPlan, then: Callable[[HostArray], None]) -> None:
        """Call `then` with a slice of the output once it is in host memory: at the latest when its span ends."""
        self._lane().fetch(out, tensor.dtype, then)

    def _bring(self, lane: Lane, tensor: TensorPlan, first: int, last: int, held: Held | None) -> tuple[Slot, Slice]:
        slot = lane.next_slot()
        if held is not None:
            arrays = [array[first:last] for array in held.arrays]
        else:
            operands = enumerate(tensor.operands)
            arrays = [slot.array(f"operand {place}", operand.dtype, last - first) for place, operand in operands]
            self._send(lane, slot, tensor, first, arrays)
        return slot, slice_of(tensor, first, tuple(arrays), self.plan)

    def _send(self, lane: Lane, slot: Slot, tensor: TensorPlan, first: int, arrays: list[Any]) -> None:
        for place, (operand, array) in enumerate(zip(tensor.operands, arrays, strict=True)):
            host = slot.host(f"operand {place}", operand.dtype, len(array))
            self._fill(operand, first, as_numpy(host, operand.dtype))
            lane.send(slot, host, array)

    def _room(self, dtype: str, length: int) -> Tensor:
        return self._accelerator.empty(length * DTYPE_BYTES[dtype]).view(torch_dtype(dtype))

    def _lane(self) -> Lane:
        if not hasattr(self._local, "lane"):
            self._local.lane = Lane(self._accelerator)
        lane: Lane = self._local.lane
        return lane
