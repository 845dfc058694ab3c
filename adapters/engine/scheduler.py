"""Which tokens the next step computes, and which sequences hold places and pages for it."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass

from graftwork.adapters.engine.cache import KeyValueCache
from graftwork.adapters.engine.pages import chain
from graftwork.adapters.engine.sequence import Sequence
from graftwork.adapters.steps.fairness import Turns
from graftwork.errors import QueueFull

LONGEST_RETRY = 60
"""Seconds that a caller is told to wait at most."""


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
    """Continuous batching, fair between tenants.

    Every sequence that is past its prompt gets one token a step. On top, `prefill_tokens` prompt tokens are shared out
    by turns between tenants, so that a long prompt is computed in pieces while the others go on. When all places are
    taken, a tenant that waits gets one from a tenant that has at least two more per weight, or whose sequence ran for
    `slice_tokens` while the other has none. When pages run out, the youngest sequence gives its own back. A sequence
    that lost its place waits at the front of its tenant's queue, and is computed again from what is still cached.

    Nothing waits forever: the oldest running sequence takes pages from all others, and a waiting one that finds too few
    holds up younger ones until it has them. `add` may be called from any thread, everything else from the one that
    steps.
    """

    def __init__(
        self,
        cache: KeyValueCache,
        turns: Turns,
        *,
        max_running: int,
        max_waiting: int,
        prefill_tokens: int,
        slice_tokens: int,
    ) -> None:
        self._cache = cache
        self._turns = turns
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._prefill_tokens = prefill_tokens
        self._slice_tokens = slice_tokens
        self._waiting: dict[str, deque[Sequence]] = {}
        self._running: list[Sequence] = []  # oldest first
        self._hungry: str | None = None  # its next sequence waits for pages, so nobody else's is admitted
        self._admissions: deque[float] = deque(maxlen=64)
        self._lock = threading.Lock()
        self.preemptions = 0
        self.prompt_tokens = 0
        """Tokens that admitted sequences had to compute or find."""
        self.found_tokens = 0
        """How many of these were found in the cache."""

    @property
    def waiting(self) -> int:
        """Sequences that have no place."""
        return sum(len(queue) for queue in list(self._waiting.values()))

    @property
    def running(self) -> int:
        """Sequences that have a place."""
        return len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether a sequence that comes now finds a place as soon as the next step begins."""
        return self._hungry is None and self.running + self.waiting < self._max_running

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of its tenant's queue. Raises QueueFull."""
        with self._lock:
            waiting = self.waiting
            if waiting >= self._max_waiting:
                raise QueueFull(waiting=waiting, retry_after=self._retry_after(waiting))
            self._waiting.setdefault(sequence.tenant, deque()).append(sequence)

    def all(self) -> list[Sequence]:
        """Every sequence, running or waiting."""
        with self._lock:
            return [*self._running, *(sequence for queue in self._waiting.values() for sequence in queue)]

    def remove(self, sequence: Sequence, *, failed: bool = False) -> None:
        """Forget a sequence and free its pages; when it `failed`, nobody finds what it computed."""
        with self._lock:
            if sequence in self._running:
                self._running.remove(sequence)
            else:
                self._leave_queue(sequence)
        self._free_pages(sequence, forget=failed)

    def fork(self, sequence: Sequence) -> list[Sequence]:
        """Let the sequence's siblings go on from where it is, sharing its pages as far as there are places.

        Those that find no place wait with nothing but their tokens.
        """
        siblings, sequence.siblings = sequence.siblings, []
        for sibling in siblings:
            with self._lock:
                if len(self._running) < self._max_running:
                    self._running.append(sibling)
                    sibling.pages, sibling.keys = list(sequence.pages), list(sequence.keys)
                    sibling.computed = sequence.computed
                    for page in sibling.pages:
                        self._cache.pages.share(page)
                else:
                    self._waiting.setdefault(sibling.tenant, deque()).appendleft(sibling)
        return siblings

    def borrow(self, count: int) -> list[int]:
        """Pages for something that is no sequence, if need be from the youngest sequences; give them back soon.

        At most as many as there are may be borrowed in all.
        """
        while self._cache.pages.available < count:
            self._preempt(self._running[-1], {})
        return [self._take() for _ in range(count)]

    def give_back(self, pages: list[int]) -> None:
        """End a loan."""
        for page in pages:
            self._cache.pages.release(page)

    def publish(self, sequence: Sequence) -> None:
        """Let the sequence's full pages be found by others with the same beginning and the same adapter."""
        known, full = len(sequence.keys), sequence.computed // self._cache.page_tokens
        if full > known:
            tokens = sequence.tokens[: sequence.computed]
            sequence.keys = chain(sequence.root, tokens, self._cache.page_tokens, sequence.keys)
            for page, key in zip(sequence.pages[known:], sequence.keys[known:], strict=False):
                self._cache.pages.publish(page, key)

    def schedule(self) -> list[Work]:
        """The next step's work, equal adapters side by side; empty when there is nothing to do."""
        with self._lock:
            tenants = {**dict.fromkeys(self._waiting), **dict.fromkeys(sequence.tenant for sequence in self._running)}
        self._turns.keep(tenants)
        counts: dict[Sequence, int] = {}
        for sequence in list(self._running):
            if sequence.is_decoding and sequence in self._running:
                if self._reserve(sequence, 1, counts):
                    counts[sequence] = 1
                else:
                    self._preempt(sequence, counts)
        self._turns.pay(Counter(sequence.tenant for sequence in counts))
        self._share_out(tenants, self._prefill_tokens, counts)
        for sequence, count in counts.items():
            sequence.turn += count
        return sorted((Work(sequence, count) for sequence, count in counts.items()), key=adapter_rows)

    def _share_out(self, tenants: Collection[str], budget: int, counts: dict[Sequence, int]) -> None:
        """Give the step's prompt tokens to tenants by turns."""
        reading = {sequence.tenant for sequence in self._running if not sequence.is_decoding}
        ready = {tenant for tenant in tenants if tenant in reading or tenant in self._waiting}
        blocked: set[str] = set()
        while budget and ready:
            tenant, allowed = self._turns.next(ready, blocked)
            count = self._prefill(tenant, min(budget, allowed), counts)
            if count:
                budget -= count
                self._turns.pay({tenant: count})
            else:
                ready.remove(tenant)
                blocked.add(tenant)

    def _prefill(self, tenant: str, budget: int, counts: dict[Sequence, int]) -> int:
        """Add up to `budget` prompt tokens of one of the tenant's sequences; 0 when none of them can go on."""
        for sequence in list(self._running):
            todo = sequence.remaining - counts.get(sequence, 0)
            if sequence.tenant != tenant or sequence.is_decoding or not todo or sequence not in self._running:
                continue
            count = min(budget, todo)
            if self._reserve(sequence, counts.get(sequence, 0) + count, counts):
                counts[sequence] = counts.get(sequence, 0) + count
                return count
        admitted = self._admit(tenant, counts)
        if admitted is None:
            return 0
        counts[admitted] = min(budget, admitted.remaining)
        self._reserve(admitted, counts[admitted], counts)
        return counts[admitted]

    def _admit(self, tenant: str, counts: dict[Sequence, int]) -> Sequence | None:
        """Give a place to the tenant's first waiting sequence, if there is one and it will find its pages."""
        queue = self._waiting.get(tenant)
        if not queue:
            return None
        sequence = queue[0]
        if self._hungry not in (None, tenant):
            return None
        pages, size = self._cache.pages, self._cache.page_tokens
        keys = chain(sequence.root, sequence.tokens[:-1], size)  # the last token's logits are always needed
        while True:
            found = pages.find(keys)
            needed = self._cache.pages_for(len(sequence.tokens)) - len(found) + len(self._running)
            fits = pages.available - sum(map(pages.is_idle, found)) >= needed
            if fits and len(self._running) < self._max_running:
                break
            if not self._make_place(tenant, counts):
                self._hungry = None if fits else tenant
                return None
        self._hungry = None
        for page in found:
            pages.share(page)
        sequence.pages, sequence.keys, sequence.computed = found, keys[: len(found)], len(found) * size
        sequence.turn = 0
        if not sequence.sampled:
            sequence.generation.cached_tokens = sequence.computed
            self._admissions.append(time.monotonic())
        self.prompt_tokens += len(sequence.tokens)
        self.found_tokens += sequence.computed
        with self._lock:
            self._leave_queue(sequence)
            self._running.append(sequence)
        return sequence

    def _make_place(self, tenant: str, counts: dict[Sequence, int]) -> bool:
        """Take a place from a tenant that has more than its share, for `tenant`."""
        held = Counter(sequence.tenant for sequence in self._running)

        def share(owner: str, change: int) -> float:
            return (held[owner] + change) / self._turns.weight(owner)

        richest = max(held, key=lambda owner: share(owner, -1))
        if richest != tenant and share(richest, -1) >= share(tenant, 1):
            victim = next(sequence for sequence in reversed(self._running) if sequence.tenant == richest)
        else:
            richer = [sequence for sequence in self._running if share(sequence.tenant, 0) > share(tenant, 0)]
            victim = max(richer, key=lambda sequence: sequence.turn, default=self._running[0])
            if held[tenant] or victim.turn < self._slice_tokens or victim not in richer:
                return False
        self._preempt(victim, counts)
        return True

    def _reserve(self, sequence: Sequence, count: int, counts: dict[Sequence, int]) -> bool:
        """Own the pages that the sequence's next `count` tokens are written to, if need be from younger sequences."""
        pages = self._cache.pages
        first = sequence.computed // self._cache.page_tokens
        total = self._cache.pages_for(sequence.computed + count)
        while True:
            shared = [at for at in range(first, len(sequence.pages)) if pages.references(sequence.pages[at]) > 1]
            missing = total - len(sequence.pages)
            if len(shared) + missing <= pages.available:
                break
            if self._running[-1] is sequence:
                return False
            self._preempt(self._running[-1], counts)
        for at in shared:
            page = self._take()
            self._cache.copy(sequence.pages[at], page)
            pages.release(sequence.pages[at])
            sequence.pages[at] = page
        sequence.pages.extend(self._take() for _ in range(missing))
        return True

    def _take(self) -> int:
        page = self._cache.pages.take()
        assert page is not None  # noqa: S101  they were counted before
        return page

    def _preempt(self, sequence: Sequence, counts: dict[Sequence, int]) -> None:
        counts.pop(sequence, None)
        self._free_pages(sequence)
        with self._lock:
            self._running.remove(sequence)
            self._waiting.setdefault(sequence.tenant, deque()).appendleft(sequence)
        self.preemptions += 1

    def _free_pages(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Give the sequence's pages back, the last first, so that beginnings stay in the cache longest."""
        pages = self._cache.pages
        for page in reversed(sequence.pages):
            if forget:
                pages.forget(page)
            pages.release(page)
        sequence.pages, sequence.keys, sequence.computed = [], [], 0

    def _leave_queue(self, sequence: Sequence) -> None:
        queue = self._waiting[sequence.tenant]
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.tenant]
            if self._hungry == sequence.tenant:
                self._hungry = None

    def _retry_after(self, waiting: int) -> int:
        """Seconds until as many sequences as wait now will have begun, at the pace of the last ones."""
        begun = list(self._admissions)
        if len(begun) < 2:
            return 1
        pace = len(begun) / max(time.monotonic() - begun[0], 1e-3)
        return max(1, min(LONGEST_RETRY, math.ceil(waiting / pace)))


def adapter_rows(work: Work) -> tuple[int, str]:
    """The order of works in a step: the base's first, then by the first rank row of their adapter."""
    lease = work.sequence.lease
    return (-1, "") if lease is None else (lease.resident.start, lease.resident.digest)
