"""A call at the next time that something is due."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Alarm:
    """Calls `ring` once, at the earliest time that it was set to. Not thread-safe: its owner holds a lock."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._timer: tuple[float, threading.Timer] | None = None

    def set(self, due: float | None) -> None:
        """Ring at `due` (on the monotonic clock) at the latest; None is never."""
        if due is None or (self._timer is not None and time.monotonic() < self._timer[0] <= due):
            return
        self.cancel()
        timer = threading.Timer(max(0.0, due - time.monotonic()), self._ring)
        timer.daemon = True
        timer.start()
        self._timer = due, timer

    def cancel(self) -> None:
        """Do not ring, unless it happens now."""
        if self._timer is not None:
            self._timer[1].cancel()
