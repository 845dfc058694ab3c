"""Whose turn it is to use the model."""

from __future__ import annotations

import threading
from types import TracebackType


class Turn:
    """A fair mutual exclusion for a loop and its visitors.

    A plain lock that a loop releases and takes again at once starves everyone else. Here whoever waits next holds the
    door, which the loop has to pass as well, so a visitor gets in after at most one step.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._inside = threading.Lock()

    def __enter__(self) -> None:
        with self._door:
            self._inside.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.release()
