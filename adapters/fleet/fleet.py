"""The servers of a fleet: which are ready, what each is computing, and which one is asked next."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from graftwork.adapters.fleet.affinity import spread
from graftwork.errors import EngineUnavailable, Overloaded

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 15.0
CHECK_SECONDS = 5.0
SUSPECT_AFTER = 3
"""Failed answers in a row after which a server is taken out until it passes a check."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A server of the fleet as it is now; `base` and `model` are the digest and the served name of its base."""

    url: str
    is_ready: bool
    reason: str
    base: str | None
    model: str | None
    in_flight: Mapping[str, int]
    """Requests by the digest of the version that answers them."""


@dataclass(slots=True)
class _Replica:
    url: str
    base: str | None = None
    model: str | None = None
    reason: str = "it has not been reached yet"
    is_ready: bool = False
    failures: int = 0
    check_at: float = 0.0
    in_flight: Counter[str] = field(default_factory=Counter)

    @property
    def load(self) -> int:
        return self.in_flight.total()


class Place:
    """A request's place on a server, counted until it is released. A context manager; `release` may be called again."""

    def __init__(self, fleet: Fleet, url: str, model: str, digest: str) -> None:
        self.url = url
        self.model = model
        """The served name of the server's base."""
        self._fleet = fleet
        self._digest = digest
        self._held = True

    def release(self) -> None:
        """Count the request no longer."""
        held, self._held = self._held, False
        if held:
            self._fleet._leave(self.url, self._digest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Fleet:
    """Places requests on servers. Thread-safe; it talks to nobody: its owner reports what it sees of the servers."""

    def __init__(self, urls: Sequence[str], *, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`limit` is how many requests a server is given at a time."""
        self._replicas = {url: _Replica(url) for url in urls}
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()

    def place(self, digest: str, base: str, *, model: str, avoid: Collection[str] = ()) -> Place:
        """A place for a request on the version `digest` of the base `base`, which the client calls `model`.

        Adapters go where they were before, unless that server has much more to do than the others; the base itself
        goes to the least loaded. `avoid` are servers that failed this request. Raises EngineUnavailable when no server
        of that base is ready, Overloaded when all of them are full.
        """
        with self._lock:
            able = {r.url: r for r in self._replicas.values() if r.is_ready and r.base == base and r.url not in avoid}
            if not able:
                raise EngineUnavailable(model=model, reason=self._why_none(base, avoid))
            load = {url: replica.load for url, replica in able.items()}
            order = sorted(load, key=load.__getitem__) if digest == base else spread(digest, load)
            chosen = next((able[url] for url in order if load[url] < self._limit), None)
            if chosen is None:
                raise Overloaded(reason=f"every server of its fleet has {self._limit} requests (engine_requests)")
            chosen.in_flight[digest] += 1
            return Place(self, chosen.url, chosen.model or "", digest)

    def ready(self, url: str, *, base: str, model: str) -> None:
        """The server passed a check, and serves the base with this digest under this name."""
        with self._lock:
            replica = self._replicas[url]
            replica.base, replica.model, replica.is_ready, replica.reason = base, model, True, ""
            replica.failures = 0
            replica.check_at = self._clock() + CHECK_SECONDS

    def failed(self, url: str, reason: str) -> None:
        """The server cannot be reached, or must not be used: no request before it passes a check."""
        with self._lock:
            self._fail(self._replicas[url], reason)

    def answered(self, url: str, *, well: bool) -> None:
        """The server answered a request; after several bad answers in a row it has to pass a check first."""
        with self._lock:
            replica = self._replicas[url]
            replica.failures = 0 if well else replica.failures + 1
            if replica.failures >= SUSPECT_AFTER and replica.is_ready:
                self._fail(replica, f"it failed {replica.failures} requests in a row")

    def due(self) -> list[str]:
        """The servers that should be checked now, each at growing intervals while it fails."""
        now = self._clock()
        with self._lock:
            return [replica.url for replica in self._replicas.values() if replica.check_at <= now]

    def serving(self, base: str) -> list[str]:
        """The ready servers of a base."""
        with self._lock:
            return [replica.url for replica in self._replicas.values() if replica.is_ready and replica.base == base]

    def may_serve(self, base: str) -> bool:
        """Whether a server serves the base, or is away and did or may do so."""
        with self._lock:
            return any(replica.base in (None, base) for replica in self._replicas.values())

    def status(self) -> list[ReplicaStatus]:
        """Every server as it is now."""
        with self._lock:
            return [
                ReplicaStatus(r.url, r.is_ready, r.reason, r.base, r.model, dict(+r.in_flight))
                for r in self._replicas.values()
            ]

    def in_flight(self, digest: str) -> int:
        """How many requests the version answers now, on all servers."""
        with self._lock:
            return sum(replica.in_flight[digest] for replica in self._replicas.values())

    def _leave(self, url: str, digest: str) -> None:
        with self._lock:
            counts = self._replicas[url].in_flight
            counts[digest] -= 1
            if not counts[digest]:
                del counts[digest]

    def _fail(self, replica: _Replica, reason: str) -> None:
        replica.failures = replica.failures + 1 if not replica.is_ready else 1
        replica.is_ready, replica.reason = False, reason
        wait = FIRST_RETRY_SECONDS * 2 ** min(10, replica.failures - 1)
        replica.check_at = self._clock() + min(LONGEST_RETRY_SECONDS, wait)

    def _why_none(self, base: str, avoid: Collection[str]) -> str:
        reasons = [f"{r.url}: {r.reason}" for r in self._replicas.values() if not r.is_ready]
        reasons += [f"{url} failed this request" for url in avoid if self._replicas[url].is_ready]
        reasons += [f"{r.url} serves another base" for r in self._replicas.values() if r.is_ready and r.base != base]
        return "; ".join(reasons) or "it has no servers"
