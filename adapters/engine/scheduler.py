"""Which tokens the next step computes."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from graftwork.adapters.engine.cache import KeyValueCache
from graftwork.adapters.engine.sequence import Sequence
from graftwork.errors import Overloaded


@dataclass(frozen=True, slots=True)
class Work:
    """The next `count` uncomputed tokens of a sequence."""

    sequence: Sequence
    count: int

    @property
    def samples(self) -> bool:
        """Whether the step reaches the sequence's last token, so that the next one is sampled."""
        return self.sequence.computed + self.count == len(self.sequence.tokens)


class Scheduler:
    """First come, first served, with continuous batching.

    Every sequence that is past its prompt gets one token a step; `prefill_tokens` prompt tokens are shared out on top,
    so that a long prompt is computed in pieces over several steps while the others go on. `add` may be called from any
    thread, everything else from the one that steps.
    """

    def __init__(self, cache: KeyValueCache, *, max_running: int, max_waiting: int, prefill_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Sequences that have not begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that hold a place in the cache."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue. Raises Overloaded when the queue is full."""
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(reason=f"{len(self._waiting)} requests are waiting, and max_queue is no more")
            self._waiting.append(sequence)

    def all(self) -> list[Sequence]:
        """Every sequence, running or waiting."""
        with self._lock:
            return [*self._running, *self._waiting]

    def remove(self, sequence: Sequence, *, scrub: bool = False) -> None:
        """Forget a sequence and free its place; `scrub` when it may have left NaN there."""
        with self._lock:
            if sequence.place is None:
                self._waiting.remove(sequence)
                return
            self._running.remove(sequence)
        self._cache.give_back(sequence.place, scrub=scrub)
        sequence.place = None

    def schedule(self) -> list[Work]:
        """The next step's work, equal adapters side by side; empty when there is nothing to do."""
        budget = self._prefill_tokens
        works: list[Work] = []
        for sequence in self._running:
            if sequence.sampled:
                works.append(Work(sequence, 1))
            elif budget:
                works.append(_prefill(sequence, budget))
                budget -= works[-1].count
        while budget and (admitted := self._admit()) is not None:
            works.append(_prefill(admitted, budget))
            budget -= works[-1].count
        return sorted(works, key=adapter_rows)

    def _admit(self) -> Sequence | None:
        with self._lock:
            if not self._waiting or len(self._running) >= self._max_running:
                return None
            place = self._cache.take()
            if place is None:
                return None
            sequence = self._waiting.popleft()
            sequence.place = place
            self._running.append(sequence)
            return sequence


def _prefill(sequence: Sequence, budget: int) -> Work:
    return Work(sequence, min(budget, len(sequence.tokens) - sequence.computed))


def adapter_rows(work: Work) -> int:
    """The order of works in a step: the base's first, then by the first rank row of their adapter."""
    lease = work.sequence.lease
    return -1 if lease is None else lease.resident.start
