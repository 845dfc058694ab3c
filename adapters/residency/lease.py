"""A pin on a resident adapter."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Protocol, Self

from graftwork.adapters.attachment.resident import Resident
from graftwork.errors import InvalidRequest


class Pins(Protocol):
    """Counts the pins of one resident adapter; thread-safe."""

    def pin(self) -> None:
        """One more."""

    def unpin(self) -> None:
        """One less."""


class Lease:
    """While it is held, its adapter's rows stay what they are.

    `release` may be called again and from any thread. As a context manager, it is released at the end of the block.
    """

    def __init__(self, resident: Resident, pins: Pins) -> None:
        """Takes over a pin that was already counted."""
        self.resident = resident
        self.pins = pins
        self._held = True
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._held

    def release(self) -> None:
        """Take the pin away, the first time."""
        with self._lock:
            held, self._held = self._held, False
        if held:
            self.pins.unpin()

    def share(self) -> Lease:
        """A second, independent lease on the same adapter. Raises InvalidRequest when this one was released."""
        with self._lock:
            if not self._held:
                raise InvalidRequest(field="lease", reason=f"that of {self.resident.digest[:12]} was released before")
            self.pins.pin()
        return Lease(self.resident, self.pins)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
