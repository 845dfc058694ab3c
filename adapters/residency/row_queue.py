"""Adapters that wait for rank rows because all are in use."""

from __future__ import annotations

import time

from graftwork.adapters.residency.place import Place, Stage, Waiter

LOOK_AHEAD = 8


class RowQueue:
    """First come, first served, each caller until a deadline of its own. Not thread-safe: its owner holds a lock.

    An adapter that fits where an earlier one does not may pass it, for `patience` seconds: from then on nobody passes.
    """

    def __init__(self, limit: int, patience: float) -> None:
        self._limit = limit
        self._patience = patience
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    @property
    def is_full(self) -> bool:
        """Whether no more adapters may wait."""
        return len(self._places) >= self._limit

    @property
    def overdue(self) -> Place | None:
        """The first one, once it waited for longer than `patience`."""
        if self._places and self._places[0].waited() >= self._patience:
            return self._places[0]
        return None

    def push(self, place: Place) -> None:
        """Put an adapter at the end."""
        place.stage, place.waits_since = Stage.WAITING, time.monotonic()
        self._places.append(place)

    def candidates(self) -> list[Place]:
        """Who may be given rows now, in this order."""
        return self._places[:1] if self.overdue else self._places[:LOOK_AHEAD]

    def remove(self, place: Place) -> None:
        """Take an adapter out, if it is in."""
        self._places = [other for other in self._places if other is not place]

    def expire(self) -> tuple[list[Place], list[tuple[Place, Waiter]]]:
        """Take out the callers whose time is over, and the adapters that nobody waits for any more."""
        now = time.monotonic()
        late = [(place, waiter) for place in self._places for waiter in place.waiters if waiter.deadline <= now]
        for place, waiter in late:
            place.waiters.remove(waiter)
        unwanted = [place for place in self._places if not place.is_wanted]
        self._places = [place for place in self._places if place.is_wanted]
        return unwanted, late

    def next_event(self) -> float | None:
        """When, on the monotonic clock, somebody's time or the first one's patience is over."""
        if not self._places:
            return None
        times = [waiter.deadline for place in self._places for waiter in place.waiters]
        first = self._places[0]
        return min([*times, *([] if first.was_patient else [first.waits_since + self._patience])], default=None)
