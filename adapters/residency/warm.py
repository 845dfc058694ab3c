"""Adapters in host memory, between the registry's files and an engine's rows."""

from __future__ import annotations

import threading
from collections import OrderedDict

from graftwork.adapters.changes import Lowered


class WarmAdapters:
    """Lowered adapters by digest, at most `limit` bytes of them; the least recently used go first. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._adapters: OrderedDict[str, Lowered] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What all of them take."""
        return self._bytes

    def get(self, digest: str) -> Lowered | None:
        """The adapter, if it is here."""
        with self._lock:
            if digest not in self._adapters:
                return None
            self._adapters.move_to_end(digest)
            return self._adapters[digest]

    def put(self, digest: str, adapter: Lowered) -> None:
        """Keep the adapter in place of others; one that is larger than `limit` is not kept."""
        with self._lock:
            self._forget(digest)
            if adapter.host_bytes > self.limit:
                return
            while self._bytes + adapter.host_bytes > self.limit:
                self._forget(next(iter(self._adapters)))
            self._adapters[digest] = adapter
            self._bytes += adapter.host_bytes

    def drop(self, digest: str) -> None:
        """Forget the adapter."""
        with self._lock:
            self._forget(digest)

    def _forget(self, digest: str) -> None:
        if (adapter := self._adapters.pop(digest, None)) is not None:
            self._bytes -= adapter.host_bytes
