"""Large files on their way to a repository: received, compared with their SHA-256, and kept until a commit names them.

They are in `home/lfs`, in a folder of their repository's own, so that naming a digest never gives anybody bytes that
somebody else uploaded. What no commit named within a day is removed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graftwork.errors import DigestMismatch, InvalidRequest, TooLarge
from graftwork.registry.refs import Name
from graftwork.registry.storage.blobs import check_space, fsync, read_chunks, refuse_full, write_all

KEPT_SECONDS = 24 * 3600
PARTS_SUFFIX = ".parts"


class Incoming:
    """A file that is being received; at most `size` bytes of it."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._expected = size
        self._received = 0
        self._digest = hashlib.sha256()
        self._file = path.open("xb", buffering=0)

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises TooLarge, StorageFull."""
        self._received += len(data)
        if self._received > self._expected:
            raise TooLarge(what="The upload", actual="more bytes", limit=f"{self._expected} bytes")
        self._digest.update(data)
        with refuse_full(self.path.parent):
            write_all(self._file.fileno(), data)

    def finish(self) -> str:
        """Make the file last. Returns its SHA-256. Raises InvalidRequest when bytes are missing, StorageFull."""
        if self._received != self._expected:
            reason = f"it ended after {self._received} of {self._expected} bytes"
            raise InvalidRequest(field="body", reason=reason)
        with refuse_full(self.path.parent):
            os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Objects:
    """The large files of one repository that no commit names yet."""

    def __init__(self, home: Path, name: Name) -> None:
        self._root = home / "lfs"
        self._folder = self._root / hashlib.sha256(name.key.encode()).hexdigest()[:32]

    def find(self, oid: str, size: int | None = None) -> Path | None:
        """The file with that SHA-256, if it came whole (and, if given, has that size)."""
        path = self._folder / oid
        with suppress(FileNotFoundError):
            found = path.stat().st_size
            return path if size is None or size == found else None
        return None

    def prepare(self, size: int) -> None:
        """Make room for a file of `size` bytes: what is too old goes. Raises StorageFull."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        check_space(self._folder, size)

    @contextmanager
    def incoming(self, size: int) -> Iterator[Incoming]:
        """A new file to receive bytes in, which is gone at the end unless it was kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix="tmp-")
        os.close(handle)
        Path(name).unlink()
        incoming = Incoming(Path(name), size)
        try:
            yield incoming
        finally:
            incoming.close()
            incoming.path.unlink(missing_ok=True)

    def keep(self, incoming: Incoming, oid: str) -> None:
        """Keep a whole file. Raises DigestMismatch when it is not the one that was announced, InvalidRequest."""
        actual = incoming.finish()
        if actual != oid:
            raise DigestMismatch(what="the file", actual=actual, expected=oid)
        incoming.path.rename(self._folder / oid)
        fsync(self._folder)

    def keep_part(self, incoming: Incoming, oid: str, number: int) -> str:
        """Keep a part; the first one that came with its number stays. Returns its SHA-256."""
        digest = incoming.finish()
        folder = self._parts(oid)
        folder.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            os.link(incoming.path, folder / str(number))
        fsync(folder)
        return digest

    def complete(self, oid: str, size: int, parts: int) -> None:
        """Put a file together from its parts. Raises InvalidRequest naming a missing part, DigestMismatch, StorageFull.

        A file that is there already is left as it is; parts that do not make it are forgotten.
        """
        if self.find(oid, size) is not None:
            return
        folder = self._parts(oid)
        missing = [number for number in range(1, parts + 1) if not (folder / str(number)).is_file()]
        if missing:
            raise InvalidRequest(field="parts", reason=f"part {missing[0]} of {parts} has not come")
        check_space(self._folder, size)
        try:
            with self.incoming(size) as incoming:
                for number in range(1, parts + 1):
                    for chunk in read_chunks(folder / str(number)):
                        incoming.write(chunk)
                self.keep(incoming, oid)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self, oid: str) -> None:
        """Remove a file that is in the blob store by now."""
        (self._folder / oid).unlink(missing_ok=True)

    def _parts(self, oid: str) -> Path:
        return self._folder / f"{oid}{PARTS_SUFFIX}"

    def _sweep(self) -> None:
        """Remove what nobody touched for a day, of every repository."""
        oldest = time.time() - KEPT_SECONDS
        for path in self._root.glob("*/*"):
            with suppress(FileNotFoundError, NotADirectoryError):
                touched = max(entry.stat().st_mtime for entry in (path, *path.glob("*")))
                if touched > oldest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
