"""From the name of a model in a request to an engine and a pinned adapter."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.lease import Lease
from graftwork.errors import ModelNotFound, Overloaded
from graftwork.registry.registry import Registry
from graftwork.registry.snapshots import materialise
from graftwork.registry.versions import Kind, Version
from graftwork.settings import Settings


@dataclass(frozen=True, slots=True)
class Admission:
    """What a request was resolved to, once and for good: aliases may move while it runs."""

    engine: Engine
    lease: Lease | None
    """The pinned adapter; None for a base. Give it to `Engine.submit`, or release it."""
    base: Version
    adapter: Version | None

    @property
    def served(self) -> str:
        """`ns/name@<12 digits of the digest>`: the version that answers."""
        version = self.adapter or self.base
        return f"{version.name}@{version.digest[:12]}"


class Host:
    """The engines of this process, one for each base or checkpoint that was asked for; thread-safe."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        """Engines run on the first GPU if there is one, else on the CPU, in their checkpoint's dtype."""
        self._registry = registry
        self._settings = settings
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._engines: dict[str, Future[Engine]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def admit(self, model: str) -> Admission:
        """Resolve `ns/name`, `ns/name@alias` or `ns/name@version`, and pin what it names.

        The first request for a base loads its engine; others wait for it. Raises ModelNotFound for an artifact that is
        neither a model nor an adapter, NoAdapterCapacity, Overloaded after `close`, what resolving and loading raise.
        """
        version = self._registry.catalog.resolve(model)
        if version.kind in (Kind.BASE, Kind.CHECKPOINT):
            return Admission(self._engine(version), None, version, None)
        if version.kind is not Kind.ADAPTER or version.base is None:
            kinds = "a base, a checkpoint or an adapter can be"
            raise ModelNotFound(model=model, reason=f"it is a {version.kind.replace('_', ' ')}; {kinds}")
        base = self._registry.catalog.by_digest(version.base)
        engine = self._engine(base)
        return Admission(engine, self._pin(engine, version), base, version)

    def prepare(self, version: Version) -> None:
        """Make an adapter ready before an alias moves to it: loaded into its base's engine and probed there.

        Does nothing for anything else, and when its base has no engine. Raises AdapterProbeFailed and what
        `Residency.acquire` raises; then the alias must stay where it is.
        """
        if version.kind is not Kind.ADAPTER or version.base is None:
            return
        with self._lock:
            starting = self._engines.get(version.base)
        if starting is None or starting.exception() is not None:
            return
        folder = materialise(self._registry, version)
        starting.result().residency.prepare(version.digest, folder, name=version.ref)

    def close(self, *, drain: bool = False) -> None:
        """Close every engine: finish (`drain`) or abort what it computes."""
        with self._lock:
            self._closed = True
            engines = list(self._engines.values())
        for starting in engines:
            if starting.exception() is None:
                starting.result().close(drain=drain)

    def _engine(self, base: Version) -> Engine:
        with self._lock:
            if self._closed:
                raise Overloaded(reason="the server is shutting down")
            starting = self._engines.get(base.digest)
            is_new = starting is None
            if starting is None:
                starting = self._engines[base.digest] = Future()
        if is_new:
            self._start(base, starting)
        return starting.result()

    def _start(self, base: Version, starting: Future[Engine]) -> None:
        try:
            folder = materialise(self._registry, base)
            engine = Engine.load(folder, self._settings, name=base.ref, device=self._device)
            engine.start()
        except BaseException as error:
            with self._lock:
                del self._engines[base.digest]
            starting.set_exception(error)
            raise
        starting.set_result(engine)

    def _pin(self, engine: Engine, adapter: Version) -> Lease:
        lease = engine.residency.pin(adapter.digest)
        if lease is not None:
            return lease
        return engine.residency.acquire(adapter.digest, materialise(self._registry, adapter), name=adapter.ref)
