"""From the name of a model in a request to an engine and a pinned adapter."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context

from graftwork.adapters.experts.target import Target, find_target, target_of
from graftwork.adapters.hosting.admission import Admission, Serving
from graftwork.adapters.hosting.engines import Engines
from graftwork.adapters.residency.lease import Lease
from graftwork.adapters.residency.place import Occupant, Source
from graftwork.adapters.residency.residency import Residency
from graftwork.errors import GraftworkError, InvalidRequest, ModelNotFound, Overloaded
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import Scope
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings

__all__ = ["Admission", "Host"]

RESOLVERS = 4
DRAIN_POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Host:
    """Admits requests to the engines of this process; thread-safe.

    `request` never waits: names are resolved, engines started and adapters loaded on threads of their own, each kind
    on its own, so that a request for what is resident passes those for what is not.
    """

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings
        self._engines = Engines(registry, settings, started=self._started)
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="graftwork-resolver")
        self._kept: dict[str, tuple[Version, Target]] = {}
        self._barred: frozenset[str] = frozenset()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._following = threading.Lock()

    def request(self, model: str) -> Future[Admission]:
        """Resolve `ns/name`, `ns/name@alias`, `ns/name@version` or a mixture of these, and pin what it names.

        The first request for a base loads its engine. One for an adapter that has no rank rows waits for them, at most
        `adapter_wait_seconds`. The future fails with ModelNotFound for an artifact of another kind and for a version
        that was withdrawn, VersionQuarantined for one that it needs, Forbidden where whoever this is done for may not
        use what the name names, NoAdapterCapacity, Overloaded after `close`, and what resolving and loading raise. Who
        cancels it need not release anything.
        """
        future: Future[Admission] = Future()
        try:
            # the resolver works for whoever asks here
            self._resolvers.submit(copy_context().run, self._resolve, model, future)
        except RuntimeError:  # it was shut down
            raise Overloaded(reason="the server is shutting down") from None
        return future

    def admit(self, model: str) -> Admission:
        """What `request` promises, waited for. Raises what its future fails with."""
        return self.request(model).result()

    def prepare(self, version: Version, *, replaces: str | None = None) -> None:
        """Make an adapter ready before an alias moves to it: loaded into its base's engine and probed there.

        The version with the digest `replaces` is not evicted meanwhile. Does nothing for what is neither an adapter nor
        an expert set, and when its base has no engine. Raises AdapterProbeFailed, ModelNotFound for a version that was
        withdrawn, and what `Residency.acquire` raises; then the alias must stay where it is.
        """
        target = self._target_of(version)
        starting = self._engines.starting(target.base.digest) if target is not None else None
        if target is None or starting is None or starting.exception() is not None:
            return
        residency = starting.result().residency
        with (residency.pin(replaces) if replaces else None) or nullcontext():
            wait = float(self._settings.adapter_wait_seconds)
            source = _source(target, residency)
            residency.prepare(target.digest, source, name=target.name, wait=wait, made_of=target.digests)

    def is_resident(self, digest: str) -> bool:
        """Whether any engine holds the adapter."""
        return any(digest in engine.residency.digests for engine in self._engines.all().values())

    def engines(self) -> dict[str, Serving]:
        """The engines that run, by the digest of their base."""
        return self._engines.all()

    def occupants(self) -> dict[str, list[Occupant]]:
        """The adapters in each engine that runs, by the digest of its base."""
        return {digest: engine.residency.occupants for digest, engine in self._engines.all().items()}

    @property
    def kept(self) -> dict[str, Version]:
        """What is never evicted: the version by the name it was asked for under."""
        with self._lock:
            return {ref: version for ref, (version, _) in self._kept.items()}

    def keep(self, ref: str) -> Version:
        """Load `ns/name@alias` or `ns/name@version` where its base is served, and never evict it until `let_go`.

        When the alias moves, `follow` keeps its new version instead. Raises InvalidRequest for what is neither an
        adapter nor an expert set, and what resolving and `prepare` raise.
        """
        version = self._registry.catalog.resolve(ref)
        if self._target_of(version) is None:
            reason = f"{version.ref} is {version.kind.called}; adapters and expert sets can be kept"
            raise InvalidRequest(field="ref", reason=reason)
        self.prepare(version)
        with self._following:
            return self._keep_current(ref)

    def let_go(self, ref: str) -> bool:
        """Let what `keep` kept under this name be evicted again. Returns whether it was kept."""
        with self._following:  # whoever follows a move meanwhile would keep it again
            with self._lock:
                _, before = self._kept.pop(ref, (None, None))
            self._apply_kept(before, None)
        return before is not None

    def keeps(self, key: str, alias: str) -> bool:
        """Whether anything is kept for the alias of the artifact `key` (its name in lower case)."""
        return any(ref.lower() == f"{key}@{alias}".lower() for ref in self.kept)

    def follow(self, key: str, alias: str) -> None:
        """Keep what the alias of the artifact `key` (its name in lower case) points at now, if it is kept at all.

        Whoever calls this last has read the registry last, so that late news do not undo a later move.
        """
        with self._following:
            for ref in [ref for ref in self.kept if ref.lower() == f"{key}@{alias}".lower()]:
                self._keep_current(ref)

    def _keep_current(self, ref: str) -> Version:
        version = self._registry.catalog.resolve(ref)
        target = self._target_of(version)
        with self._lock:
            _, before = self._kept.get(ref, (None, None))
            if target is not None:
                self._kept[ref] = version, target
        if target is not None:
            self._apply_kept(before, target)
        return version

    def bar(self, digests: frozenset[str]) -> None:
        """Serve these versions no more, and all others again. Returns at once.

        There are no new pins from now on, and the rows are free when the last request ends. Requests that still run
        after `drain_seconds` are aborted.
        """
        with self._lock:
            fresh = digests - self._barred
            self._barred = digests
            lost = {ref: kept for ref, kept in self._kept.items() if not kept[1].digests.isdisjoint(digests)}
            self._kept = {ref: kept for ref, kept in self._kept.items() if ref not in lost}
        for _, target in lost.values():
            self._apply_kept(target, None)
        for digest in fresh:
            for engine in self._engines.all().values():
                self._retire(engine, digest)

    def close(self, *, drain: bool = False) -> None:
        """Close every engine: finish (`drain`) or abort what it computes."""
        self._closing.set()
        self._resolvers.shutdown(wait=True, cancel_futures=True)
        self._engines.close(drain=drain)

    def _resolve(self, model: str, future: Future[Admission]) -> None:
        with _failing(future):
            target = find_target(self._registry, model)
            for version in target.named:
                require(Scope.INFER, version.name.namespace)
            self._registry.catalog.require_shown(target.made_of)
            self._registry.marks.require_none_quarantined(target.digests)
            self._refuse_barred(target, model)
            engine = self._engines.request(target.base)
            engine.add_done_callback(lambda ready: self._pin(target, ready, future))

    def _pin(self, target: Target, ready: Future[Serving], future: Future[Admission]) -> None:
        with _failing(future):
            engine = ready.result()
            if target.source is None:
                _deliver(Admission(engine, None, target), future)
                return
            residency = engine.residency
            lease = residency.pin(target.digest)
            if lease is not None:
                _deliver(Admission(engine, lease, target), future)
                return
            wait = float(self._settings.adapter_wait_seconds)
            source = _source(target, residency)
            waiting = residency.request(target.digest, source, name=target.name, wait=wait, made_of=target.digests)
            future.add_done_callback(lambda ended: waiting.cancel() if ended.cancelled() else None)
            waiting.add_done_callback(lambda leased: self._admit(engine, target, leased, future))

    def _admit(self, engine: Serving, target: Target, leased: Future[Lease], future: Future[Admission]) -> None:
        if leased.cancelled():
            return
        with _failing(future):
            _deliver(Admission(engine, leased.result(), target), future)

    def _refuse_barred(self, target: Target, model: str) -> None:
        known = target.digests & self._barred  # it may be over: only the registry knows at once
        if known and self._registry.marks.barred(known):
            raise ModelNotFound(model=model, reason="this version was withdrawn, or is quarantined")

    def _target_of(self, version: Version) -> Target | None:
        """What serves an adapter or an expert set; None for anything else."""
        if version.kind not in (Kind.ADAPTER, Kind.EXPERT_SET) or version.base is None:
            return None
        target = target_of(self._registry, version)
        self._registry.marks.require_none_quarantined(target.digests)
        self._refuse_barred(target, version.ref)
        return target

    def _started(self, base: Version, engine: Serving) -> None:
        """Bring an engine what is kept on its base."""
        with self._lock:
            targets = [target for _, target in self._kept.values()]
        for target in targets:
            if target.base.digest == base.digest:
                self._apply_kept(None, target, engine)

    def _apply_kept(self, before: Target | None, after: Target | None, engine: Serving | None = None) -> None:
        """Make the residency of their base keep `after` and not `before`, unless that is kept under another name."""
        target = after or before
        engine = engine or (self._engines.running(target.base.digest) if target is not None else None)
        if engine is None:
            return
        if after is not None:
            engine.residency.keep(after.digest)
            source = _source(after, engine.residency)
            bringing = engine.residency.request(after.digest, source, name=after.name, made_of=after.digests)
            bringing.add_done_callback(_let_be)
        with self._lock:
            kept = {target.digest for _, target in self._kept.values()}
        if before is not None and before.digest not in kept:
            engine.residency.let_go(before.digest)

    def _retire(self, engine: Serving, digest: str) -> None:
        engine.residency.let_go(digest)
        engine.residency.retire(digest)
        if engine.residency.leaving(digest):
            name = f"graftwork-drain-{digest[:12]}"
            threading.Thread(target=self._drain, args=(engine, digest), name=name, daemon=True).start()

    def _drain(self, engine: Serving, digest: str) -> None:
        deadline = time.monotonic() + self._settings.drain_seconds
        while engine.residency.leaving(digest):
            if self._closing.wait(DRAIN_POLL_SECONDS):
                return
            if time.monotonic() > deadline:
                logger.warning("requests on the deleted version %s did not end in time and are aborted", digest[:12])
                engine.abort(digest)
                return


def _source(target: Target, residency: Residency) -> Source:
    assert target.source is not None  # noqa: S101  the caller made sure
    return target.source(residency.dtype, residency.device, residency.base)


def _deliver(admission: Admission, future: Future[Admission]) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(admission)
    else:
        admission.release()


def _let_be(prefetched: Future[Lease]) -> None:
    """Give the pin of a load that nobody waited for back."""
    if (error := prefetched.exception()) is None:
        prefetched.result().release()
    else:
        logger.warning("an adapter that is to be kept could not be loaded: %s", error)


@contextmanager
def _failing(future: Future[Admission]) -> Iterator[None]:
    """Let whoever waits for `future` know of a failure within the block."""
    try:
        yield
    except BaseException as error:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        if not isinstance(error, GraftworkError):
            raise
