"""The blob store: immutable files named by the SHA-256 of their bytes.

A blob is written to a temporary file beside its final place, hashed on the way, fsynced, renamed, and its folder is
fsynced: it is there whole, or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import CorruptBlob, StorageFull, TooLarge

CHUNK_BYTES = 4 * 1024 * 1024
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LINKLESS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})
STALE_SECONDS = 24 * 3600
READ_ONLY = 0o444


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """Hashed bytes on the store's disk that are not in the store yet."""

    path: Path
    sha256: str
    size: int


class BlobStore:
    """Blobs under `root`: `root/ab/abcd...`, and `root/tmp` for what is being written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._temporary = root / "tmp"

    def create(self) -> None:
        """Make the folders, and remove what a process that died left half written and nobody touched for a day."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        for folder in self._temporary.iterdir():
            with suppress(FileNotFoundError):  # its own process, or another one that opens the store, removed it
                touched = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
                if time.time() - touched > STALE_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder on the store's disk, removed at the end with whatever is left in it."""
        folder = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stage(self, chunks: Iterable[bytes], folder: Path, *, limit: int | None = None) -> StagedBlob:
        """Write `chunks` to a new file in `folder` (from `scratch`), hashed and fsynced.

        Raises TooLarge beyond `limit` bytes, StorageFull.
        """
        handle, name = tempfile.mkstemp(dir=folder)
        digest, size = hashlib.sha256(), 0
        with refuse_full(self.root), os.fdopen(handle, "wb", buffering=0) as file:
            for chunk in chunks if limit is None else _limited(chunks, limit):
                size += len(chunk)
                digest.update(chunk)
                write_all(file.fileno(), chunk)
            os.fsync(file.fileno())
        return StagedBlob(Path(name), digest.hexdigest(), size)

    def publish(self, staged: StagedBlob) -> bool:
        """Put staged bytes into the store; the staged file's own name stays. Returns whether the store lacked them."""
        final = self._place(staged.sha256)
        if final.exists():
            return False
        staged.path.chmod(READ_ONLY)
        with refuse_full(self.root):
            final.parent.mkdir(exist_ok=True)
            _link(staged.path, final)
            fsync_folder(final.parent)
        return True

    def put_stream(self, chunks: Iterable[bytes], *, limit: int | None = None) -> tuple[str, int]:
        """Store `chunks`. Returns their SHA-256 and size in bytes. Raises TooLarge, StorageFull."""
        with self.scratch() as folder:
            staged = self.stage(chunks, folder, limit=limit)
            self.publish(staged)
        return staged.sha256, staged.size

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of the file at `path`. Returns its SHA-256 and size. Raises StorageFull."""
        return self.put_stream(read_chunks(path))

    def has(self, sha256: str) -> bool:
        """Whether the store holds the blob."""
        return self._place(sha256).is_file()

    def path(self, sha256: str) -> Path:
        """Where the blob is; it must not be written to. Raises CorruptBlob when it is gone."""
        place = self._place(sha256)
        if not place.is_file():
            raise CorruptBlob(path=place, actual="nothing", expected=sha256)
        return place

    def verify(self, sha256: str) -> None:
        """Read the blob and compare. Raises CorruptBlob."""
        place = self.path(sha256)
        digest = hashlib.sha256()
        for chunk in read_chunks(place):
            digest.update(chunk)
        if digest.hexdigest() != sha256:
            raise CorruptBlob(path=place, actual=digest.hexdigest(), expected=sha256)

    def remove(self, sha256: str) -> None:
        """Delete a blob that no version refers to, as its caller made sure of."""
        self._place(sha256).unlink(missing_ok=True)

    def _place(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def read_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a few MiB at a time."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _limited(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise TooLarge(what="The file", actual=f"more than {limit} bytes", limit=f"{limit} bytes")
        yield chunk


def write_all(descriptor: int, chunk: bytes) -> None:
    """Write every byte of `chunk`."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _link(path: Path, final: Path) -> None:
    try:
        os.link(path, final)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        path.rename(final)


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def refuse_full(folder: Path) -> Iterator[None]:
    """Turn a full disk, quota or file-size limit met while writing in `folder` into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(path=folder, needed="more", available=shutil.disk_usage(folder).free) from error


def check_space(folder: Path, needed: int) -> None:
    """Raise StorageFull if the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFull(path=folder, needed=needed, available=free)
