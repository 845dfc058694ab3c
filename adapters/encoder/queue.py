"""Which texts are computed next."""

from __future__ import annotations

import threading
from collections import deque

from graftwork.adapters.encoder.requests import Job, Work
from graftwork.adapters.steps.fairness import Turns
from graftwork.errors import QueueFull

RETRY_AFTER_SECONDS = 1


class FairQueue:
    """Jobs by tenant, first come first served among a tenant's own; tenants take turns.

    `add` and `remove` may be called from any thread, `take` from the one that steps.
    """

    def __init__(self, turns: Turns, *, max_waiting: int) -> None:
        self._turns = turns
        self._max_waiting = max_waiting
        self._tenants: dict[str, deque[Job]] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Jobs with texts that are in no step yet."""
        with self._lock:
            return self._waiting()

    def add(self, job: Job) -> None:
        """Put a job at the end of its tenant's queue. Raises QueueFull."""
        with self._lock:
            if (waiting := self._waiting()) >= self._max_waiting:
                raise QueueFull(waiting=waiting, retry_after=RETRY_AFTER_SECONDS)
            self._tenants.setdefault(job.request.tenant, deque()).append(job)

    def remove(self, job: Job) -> None:
        """Forget a job's waiting texts, if it has any."""
        with self._lock:
            jobs = self._tenants.get(job.request.tenant, deque())
            if job in jobs:
                jobs.remove(job)
            if not jobs:
                self._tenants.pop(job.request.tenant, None)

    def take(self, budget: int) -> list[Work]:
        """Texts of `budget` tokens together, or one longer text; empty when nothing waits."""
        works: list[Work] = []
        with self._lock:
            self._turns.keep(self._tenants)
            while self._tenants:
                tenant, _ = self._turns.next(self._tenants)
                work = Work(self._tenants[tenant][0], self._tenants[tenant][0].begun)
                if works and len(work.tokens) > budget:
                    break
                budget -= len(work.tokens)
                self._turns.pay({tenant: len(work.tokens)})
                works.append(work)
                self._begin(tenant)
        return works

    def _begin(self, tenant: str) -> None:
        """Go on to the tenant's next text."""
        jobs = self._tenants[tenant]
        jobs[0].begun += 1
        if not jobs[0].waiting:
            jobs.popleft()
        if not jobs:
            del self._tenants[tenant]
            self._turns.keep(self._tenants)

    def _waiting(self) -> int:
        return sum(map(len, self._tenants.values()))
