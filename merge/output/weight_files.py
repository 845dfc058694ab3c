"""The weight files of a partial output, written at their final places by any number of threads and processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from graftwork.merge.output.shards import Shard
from graftwork.registry.storage.blobs import refuse_full

FLUSH_BYTES = 32_000_000
"""After so many bytes the disk begins to write, so that little is left to wait for at the end."""


class WeightFiles:
    """The files of `shards` in `folder`, open for writing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._flusher = _Flusher()

    def allocate(self, shards: Sequence[Shard]) -> None:
        """Create the files at their final size, each with its header; those that are there keep their content.

        Raises StorageFull.
        """
        self.open(shards, os.O_CREAT)
        for shard in shards:
            start, header = shard.start()
            with refuse_full(self._folder.parent):
                os.posix_fallocate(self._files[shard.file], 0, header.size)
                _write_all(self._files[shard.file], memoryview(start), 0)

    def open(self, shards: Sequence[Shard], flags: int = 0) -> None:
        """Open the files, which another process has allocated, unless `flags` say that they may be made."""
        for shard in shards:
            file = os.open(self._folder / shard.file, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
            self._files[shard.file] = file
            _, header = shard.start()
            for tensor, info in header.tensors.items():
                self._places[tensor] = file, info.begin

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """Write a part of a tensor from its byte `start` on. Raises StorageFull."""
        file, begin = self._places[tensor]
        with refuse_full(self._folder.parent):
            _write_all(file, data, begin + start)
        self._flusher.wrote(file, len(data))

    def settle(self) -> None:
        """Wait for the flush that runs. Raises StorageFull, OSError when it failed."""
        with refuse_full(self._folder.parent):
            self._flusher.stop()

    def sync(self) -> None:
        """Have everything on disk, or with the server of a shared file system. Raises StorageFull."""
        self.settle()
        with refuse_full(self._folder.parent):
            for file in self._files.values():
                os.fdatasync(file)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


class _Flusher:
    """Has files written to disk from a thread of its own while the merge goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[None] | None = None

    def wrote(self, file: int, count: int) -> None:
        """Count bytes written to a file. Raises OSError when an earlier flush failed."""
        with self._lock:
            self._waiting += count
            if self._waiting < FLUSH_BYTES or (self._running is not None and not self._running.done()):
                return
            self._waiting = 0
            if self._running is not None:
                self._running.result()
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="flush")
            self._running = self._pool.submit(os.fdatasync, file)

    def stop(self) -> None:
        """Wait for the flush that runs. Raises OSError when it failed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        if self._running is not None:
            self._running.result()
            self._running = None


def _write_all(file: int, data: memoryview, position: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], position + written)
