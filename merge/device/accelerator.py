"""A torch device as a merge uses it. On the CPU, for tests, streams and events are nothing and memory is memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from graftwork.errors import InvalidSetting
from graftwork.settings import DEVICE, DEVICES

Stream = Any
Event = Any


class Accelerator:
    """Streams, events and memory of a device, called as the setting `device` calls it.

    Raises InvalidSetting where there is no such device here.
    """

    def __init__(self, name: str) -> None:
        check_device(name)
        self.device = torch.device(name if ":" in name else f"{name}:0")
        self._module = torch.get_device_module(self.device)
        self._is_host = self.device.type == "cpu"

    def stream(self) -> Stream:
        """A queue of its own: what is in it runs in order, beside the other queues."""
        return self._module.Stream() if self._is_host else self._module.Stream(self.device)

    def event(self) -> Event:
        """A mark in a stream. Who waits for one that was not recorded does not wait."""
        return self._module.Event() if self._is_host else self._module.Event(blocking=True)

    def within(self, stream: Stream) -> AbstractContextManager[object]:
        """What the calling thread queues goes into this stream."""
        context: AbstractContextManager[object] = self._module.stream(stream)
        return context

    def stay_within(self, stream: Stream) -> None:
        """What the calling thread queues from now on goes into this stream."""
        if not self._is_host:
            self._module.set_stream(stream)

    def empty(self, nbytes: int) -> Tensor:
        """Memory of the device: uint8 [nbytes]."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def pinned(self, nbytes: int) -> Tensor:
        """Memory of the host that the device copies from and to by itself: uint8 [nbytes]."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=not self._is_host)


def check_device(name: str) -> None:
    """Raise InvalidSetting where torch has no device of this name here, saying what it has."""
    if not DEVICE.fullmatch(name):
        raise InvalidSetting(name="device", value=name, expected=DEVICES)
    if not name.startswith("cuda"):
        return
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        expected = f"cpu, since this torch ({torch.__version__}) was built without CUDA"
        raise InvalidSetting(name="device", value=name, expected=expected)
    count = torch.cuda.device_count()
    if (torch.device(name).index or 0) >= count:
        found = ", ".join(f"cuda:{index}" for index in range(count))
        expected = f"cpu or one of {found}" if count else "cpu, since torch finds no GPU on this machine"
        raise InvalidSetting(name="device", value=name, expected=expected)
