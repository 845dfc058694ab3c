"""One adapter's way into an engine's rows, and who waits for it on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.adapters.attachment.resident import Extent, Resident
from graftwork.adapters.changes import Lowered
from graftwork.adapters.residency.lease import Lease

if TYPE_CHECKING:
    from graftwork.adapters.residency.residency import Residency

Source = Path | Callable[[], Lowered]
"""Where an adapter comes from: its folder, or what computes it."""


class Stage(Enum):
    """How far an adapter is."""

    READING = "reading"
    """From its source into host memory."""
    WAITING = "waiting"
    """For rows."""
    WRITING = "writing"
    """It has rows, and they are being written."""
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Size:
    """What an adapter takes on the device: rank rows, and bytes beside them."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Waiter:
    """A caller who gets a lease, or is told at `deadline` (on the monotonic clock) that there are no rows for it."""

    future: Future[Lease]
    deadline: float


@dataclass(frozen=True, slots=True)
class Occupant:
    """An adapter as it is now."""

    digest: str
    name: str
    stage: Stage
    rows: int
    bytes: int
    pins: int
    kept: bool


class Place:
    """Everything a residency knows of an adapter. Its fields are guarded by the residency's lock."""

    def __init__(self, digest: str, source: Source, name: str, made_of: frozenset[str], residency: Residency) -> None:
        self.digest = digest
        self.made_of = made_of | {digest}
        self.source = source
        self.name = name
        self.residency = residency
        self.stage = Stage.READING
        self.size = Size(0, 0)
        self.extent: Extent = (0, 0)
        self.resident: Resident | None = None
        self.pins = 0
        self.retired = False
        """Whether it takes no new pins and its rows are freed with the last one."""
        self.waiters: list[Waiter] = []
        self.waits_since = 0.0
        self.was_patient = False
        """Whether others had to make room for it, because it waited for too long."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return any(not waiter.future.cancelled() for waiter in self.waiters)

    def waited(self) -> float:
        """Seconds in the queue for rows."""
        return time.monotonic() - self.waits_since

    def pin(self) -> None:
        """One more lease."""
        self.residency.pin_again(self)

    def unpin(self) -> None:
        """One lease less."""
        self.residency.unpin(self)
