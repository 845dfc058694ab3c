"""The part of every blob store that is on this machine's disk: where bytes are before they are in the store."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graftwork.errors import TooLarge
from graftwork.registry.storage.blobs import StagedBlob, read_chunks, refuse_full, write_all

STALE_SECONDS = 24 * 3600


class StagingArea(ABC):
    """`root/tmp`, where what is being written is kept until it is published or forgotten."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / "tmp"

    def create(self) -> None:
        """Make the folder, and remove what a process that died left half written and nobody touched for a day."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        for folder in self.stale(STALE_SECONDS):
            shutil.rmtree(folder, ignore_errors=True)

    def stale(self, seconds: float) -> list[Path]:
        """Folders that a process left here, in which nothing was touched for so long."""
        found = []
        for folder in self._temporary.iterdir():
            with suppress(FileNotFoundError):  # its own process, or another one that opens the store, removed it
                touched = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
                if time.time() - touched > seconds:
                    found.append(folder)
        return found

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on this disk, removed at the end with whatever is left in it."""
        folder = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stage(self, chunks: Iterable[bytes], folder: Path, *, limit: int | None = None) -> StagedBlob:
        """Write `chunks` to a new file in `folder` (from `scratch`), hashed.

        Raises TooLarge beyond `limit` bytes, StorageFull.
        """
        handle, name = tempfile.mkstemp(dir=folder)
        digest, size = hashlib.sha256(), 0
        with refuse_full(self.root), os.fdopen(handle, "wb", buffering=0) as file:
            for chunk in chunks if limit is None else _limited(chunks, limit):
                size += len(chunk)
                digest.update(chunk)
                write_all(file.fileno(), chunk)
        return StagedBlob(Path(name), digest.hexdigest(), size)

    @abstractmethod
    def publish(self, staged: StagedBlob, generation: int = 0) -> bool:
        """Put staged bytes into the store; see `graftwork.registry.storage.blobs.BlobStore`."""

    def put_stream(self, chunks: Iterable[bytes], *, limit: int | None = None) -> tuple[str, int]:
        """Store `chunks` as a first generation. Returns their SHA-256 and size.

        Raises TooLarge, StorageFull, StorageUnavailable.
        """
        with self.scratch() as folder:
            staged = self.stage(chunks, folder, limit=limit)
            self.publish(staged)
        return staged.sha256, staged.size

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file at `path` as a first generation. Returns its SHA-256 and size."""
        return self.put_stream(read_chunks(path))


def _limited(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(what="The file", actual=f"more than {limit} bytes", limit=f"{limit} bytes")
        yield chunk
