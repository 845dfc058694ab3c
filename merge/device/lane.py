"""One thread's way through a device, on three streams: one for copies up, one for kernels, one for the way back.

A slice has a slot from reading to writing. With three slots one is read into while the device computes on the second
and the third is on its way back, or is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from graftwork.kernels.dtypes import numpy_dtype, torch_dtype
from graftwork.merge.device import SLOTS
from graftwork.merge.device.accelerator import Accelerator
from graftwork.merge.slices.buffers import HostArray


class Slot:
    """Pinned memory of the host and memory of the device for one slice, by role, and how far the slice is."""

    def __init__(self, accelerator: Accelerator, memory: Callable[[int], Tensor]) -> None:
        self.arrived, self.computed, self.landed = (accelerator.event() for _ in range(3))
        self.then: Callable[[], None] | None = None
        """What is done with the result once it has landed."""
        self._pinned, self._memory = accelerator.pinned, memory
        self._kept: dict[tuple[str, Callable[[int], Tensor]], Tensor] = {}

    def host(self, role: str, dtype: str, length: int) -> Tensor:
        """A pinned array."""
        return self._array(role, dtype, length, self._pinned)

    def array(self, role: str, dtype: str, length: int) -> Tensor:
        """An array of the device."""
        return self._array(role, dtype, length, self._memory)

    def finish(self) -> None:
        """Wait until nothing refers to the slot any more, and have its result taken."""
        for event in (self.arrived, self.computed, self.landed):
            event.synchronize()
        then, self.then = self.then, None
        if then is not None:
            then()

    def _array(self, role: str, dtype: str, length: int, make: Callable[[int], Tensor]) -> Tensor:
        key = role, make
        needed = length * numpy_dtype(dtype).itemsize
        if key not in self._kept or len(self._kept[key]) < needed:
            self._kept[key] = make(needed)
        return self._kept[key][:needed].view(torch_dtype(dtype))


class Lane:
    """The streams and slots of the thread that makes it, whose kernels run on its stream for computing from then on."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._up, self._compute, self._down = (accelerator.stream() for _ in range(3))
        accelerator.stay_within(self._compute)
        self._allocated = accelerator.event()
        self.whole = Slot(accelerator, self._memory)
        """Room for a tensor that is held."""
        self._slots = deque(Slot(accelerator, self._memory) for _ in range(SLOTS))
        self.present = self._slots[-1]
        """The slot of the slice that is worked on."""

    def next_slot(self) -> Slot:
        """The slot that was taken longest ago, after its result was taken."""
        self._slots.rotate(-1)
        slot = self._slots[-1]
        slot.finish()
        return slot

    def send(self, slot: Slot, host: Tensor, array: Tensor) -> None:
        """Queue a copy from the host to the device."""
        for event in (slot.computed, self._allocated):
            self._up.wait_event(event)
        with self._accelerator.within(self._up):
            array.copy_(host, non_blocking=True)
        slot.arrived.record(self._up)

    @contextmanager
    def working_on(self, slot: Slot) -> Iterator[None]:
        """Kernels queued within wait for the slot to arrive; the slot is not used again before they are through."""
        self.present = slot
        self._compute.wait_event(slot.arrived)
        yield
        slot.computed.record(self._compute)

    def fetch(self, array: Tensor, dtype: str, then: Callable[[HostArray], None]) -> None:
        """Queue the way back of the present slice's result, with which `then` is called when its slot is needed."""
        slot = self.present
        host = slot.host("out", dtype, len(array))
        slot.computed.record(self._compute)
        self._down.wait_event(slot.computed)
        with self._accelerator.within(self._down):
            host.copy_(array, non_blocking=True)
        slot.landed.record(self._down)
        slot.then = partial(then, as_numpy(host, dtype))

    def _memory(self, nbytes: int) -> Tensor:
        """Memory that kernels queued before may have freed: nothing is copied into it before they are through."""
        memory = self._accelerator.empty(nbytes)
        self._allocated.record(self._compute)
        return memory

    @contextmanager
    def drained(self) -> Iterator[None]:
        """At the end every slot is empty and its result taken, the oldest first; or, after an error, none is."""
        try:
            yield
        except BaseException:
            for slot in self._slots:
                slot.then = None
            raise
        finally:
            for slot in list(self._slots):
                slot.finish()


def as_numpy(tensor: Tensor, dtype: str) -> HostArray:
    """The memory of a tensor of the host as a numpy array of a safetensors dtype."""
    bits: Any = tensor.view(torch_dtype("U8")).numpy()
    array: HostArray = bits.view(numpy_dtype(dtype))
    return array
