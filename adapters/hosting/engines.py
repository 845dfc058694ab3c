"""The engines of this process, one for each base or checkpoint that was asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from graftwork.adapters.encoder.checkpoint import is_encoder_folder
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.hosting.admission import Serving
from graftwork.errors import GraftworkError, Overloaded
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings

STARTERS = 2
SETTLED_SECONDS = 2.0
"""An engine that was asked for less long ago is not unloaded: its request may be on the way to it."""
POLL_SECONDS = 0.05

logger = logging.getLogger(__name__)


class Engines:
    """Loads engines when they are asked for, and unloads the least recently used idle one for another; thread-safe."""

    def __init__(self, registry: Registry, settings: Settings, *, started: Callable[[Version, Serving], None]) -> None:
        """Engines run on the first GPU if there is one, else on the CPU, in their checkpoint's dtype.

        `started` is called with every engine before the first request for it is answered.
        """
        self._registry = registry
        self._settings = settings
        self._started = started
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._engines: OrderedDict[str, Future[Serving]] = OrderedDict()  # least recently used first
        self._asked: dict[str, float] = {}
        self._starters = ThreadPoolExecutor(STARTERS, thread_name_prefix="graftwork-engine-start")
        self._closed = False
        self._lock = threading.Lock()

    def request(self, base: Version) -> Future[Serving]:
        """The engine of `base`, as soon as it runs; it is not to be cancelled.

        It fails with what loading raises, and with Overloaded when as many engines as may be are busy. Raises
        Overloaded after `close`.
        """
        with self._lock:
            if self._closed:
                raise Overloaded(reason="the server is shutting down")
            self._asked[base.digest] = time.monotonic()
            engine = self._engines.get(base.digest)
            if engine is None:
                engine = self._engines[base.digest] = Future()
                self._starters.submit(self._start, base, engine)
            self._engines.move_to_end(base.digest)
        return engine

    def running(self, digest: str) -> Serving | None:
        """The engine of a base; None when there is none that runs."""
        with self._lock:
            engine = self._engines.get(digest)
        return engine.result() if engine is not None and _runs(engine) else None

    def starting(self, digest: str) -> Future[Serving] | None:
        """The engine of a base that runs, or is about to."""
        with self._lock:
            return self._engines.get(digest)

    def all(self) -> dict[str, Serving]:
        """Every engine that runs, by the digest of its base; least recently used first."""
        with self._lock:
            return {digest: engine.result() for digest, engine in self._engines.items() if _runs(engine)}

    def close(self, *, drain: bool = False) -> None:
        """Close every engine: finish (`drain`) or abort what it computes."""
        with self._lock:
            self._closed = True
        self._starters.shutdown(wait=True, cancel_futures=True)
        for engine in list(self._engines.values()):
            if not engine.done():
                engine.set_exception(Overloaded(reason="the server is shutting down"))
            elif engine.exception() is None:
                engine.result().close(drain=drain)

    def _start(self, base: Version, starting: Future[Serving]) -> None:
        try:
            self._make_room(base)
            folder = materialise(self._registry, base)
            engine = self._load(base, folder)
            engine.start()
            self._started(base, engine)
        except BaseException as error:
            with self._lock:
                del self._engines[base.digest]
            starting.set_exception(error)
            raise
        starting.set_result(engine)

    def _load(self, base: Version, folder: Path) -> Serving:
        kind = EncoderEngine if is_encoder_folder(folder) else Engine
        try:
            return kind.load(folder, self._settings, name=base.ref, device=self._device)
        except GraftworkError as error:  # clients know no folders of the server
            raise error.naming(folder, base.ref) from error

    def _make_room(self, base: Version) -> None:
        """Unload idle engines until one more may be loaded, waiting for one to become idle. Raises Overloaded."""
        deadline = time.monotonic() + self._settings.adapter_wait_seconds
        while (found := self._surplus(base)) is not None:
            digest, engine = found
            if engine is not None:
                logger.info("the engine of %s is idle and unloaded for %s", digest[:12], base.ref)
                engine.close(drain=True)
            elif self._closed or time.monotonic() > deadline:
                most = self._settings.max_engines
                raise Overloaded(reason=f"{most} engines are busy, and max_engines is no more")
            else:
                time.sleep(POLL_SECONDS)

    def _surplus(self, base: Version) -> tuple[str, Serving | None] | None:
        """None when there is room; else an idle engine, taken out, or that there is none."""
        with self._lock:
            if len(self._engines) <= self._settings.max_engines:
                return None
            for digest, engine in self._engines.items():
                if digest != base.digest and _runs(engine) and self._is_idle(digest, engine.result()):
                    del self._engines[digest]
                    return digest, engine.result()
        return "", None

    def _is_idle(self, digest: str, engine: Serving) -> bool:
        settled = time.monotonic() - self._asked[digest] > SETTLED_SECONDS
        return settled and not engine.waiting and not engine.running and not engine.residency.is_busy


def _runs(engine: Future[Serving]) -> bool:
    return engine.done() and engine.exception() is None
