"""What a blob store is: immutable bytes named by their SHA-256, and what all stores do with files on the way.

Bytes have a generation, which grows when garbage collection deletes them: (digest, generation) is written to once and
deleted once. Who stores something asks `graftwork.registry.storage.deposits` for the generation first.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graftwork.errors import StorageFull

CHUNK_BYTES = 4 * 1024 * 1024
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
PLACE = re.compile(r"([0-9a-f]{64})(?:\.([1-9][0-9]*))?")


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """Hashed bytes on this machine's disk that are not in the store yet."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What a store holds: `since` is when it came there, in seconds since 1970."""

    sha256: str
    generation: int
    size: int
    since: float


@dataclass(frozen=True, slots=True)
class SignedPut:
    """A URL that takes the bytes it was signed for, from whoever sends them with these headers by PUT."""

    url: str
    headers: Mapping[str, str]


class BlobStore(Protocol):
    """Local files, or an object storage with a cache of local files. Any number of processes may use one."""

    root: Path
    """The folder on this machine's disk where bytes are staged."""
    remote: bool
    """Whether the files that `path` gives are copies, which may be dropped and fetched again."""

    def create(self) -> None:
        """Make what the store needs, and remove what dead processes left half written."""

    def scratch(self) -> AbstractContextManager[Path]:
        """An empty folder on the disk of `root`, removed at the end with whatever is left in it."""

    def stale(self, seconds: float) -> list[Path]:
        """Scratch folders in which nothing was touched for so long."""

    def stage(self, chunks: Iterable[bytes], folder: Path, *, limit: int | None = None) -> StagedBlob:
        """Write `chunks` to a new file in `folder`, hashed. Raises TooLarge, StorageFull."""

    def publish(self, staged: StagedBlob, generation: int = 0) -> bool:
        """Put staged bytes into the store, to last; returns whether it lacked them.

        Raises StorageFull, StorageUnavailable.
        """

    def put_stream(self, chunks: Iterable[bytes], *, limit: int | None = None) -> tuple[str, int]:
        """Store `chunks` as a first generation. Returns their SHA-256 and size."""

    def put_file(self, path: Path) -> tuple[str, int]:
        """Store a copy of a file as a first generation. Returns its SHA-256 and size."""

    def has(self, sha256: str, generation: int = 0) -> bool:
        """Whether the store holds the blob."""

    def path(self, sha256: str, generation: int = 0) -> Path:
        """A local file with the blob's bytes, not to be written to. Raises CorruptBlob when the blob is gone."""

    def verify(self, sha256: str, generation: int = 0) -> None:
        """Read the blob where it is stored and compare. Raises CorruptBlob."""

    def remove(self, sha256: str, generation: int = 0) -> None:
        """Delete a generation that nobody refers to, as its caller made sure of."""

    def presign(self, sha256: str, generation: int = 0, *, seconds: int) -> str | None:
        """A URL under which anybody may read the blob for so long; None where there is no such thing."""

    def presign_arrival(self, name: str, sha256: str, size: int, *, seconds: int) -> SignedPut | None:
        """How a client may leave exactly these bytes in the store for so long, as `name`; None where it cannot."""

    def fetch_arrival(self, name: str, sha256: str, size: int, target: Path) -> None:
        """Write what a client left as `name` to the new file `target`.

        Raises ArrivalNotFound, DigestMismatch for other bytes, StorageFull, StorageUnavailable.
        """

    def drop_arrival(self, name: str) -> None:
        """Delete what a client left as `name`."""

    def stored(self) -> Iterator[StoredBlob]:
        """Everything the store holds."""

    def abandon(self, seconds: float) -> int:
        """Give up transfers into the store that began, and what clients left there, so long ago. Returns how many."""


def place(sha256: str, generation: int) -> str:
    """Where a generation of a blob is, from the root of a store: `ab/abcd...`, later ones with `.1`, `.2`."""
    return f"{sha256[:2]}/{sha256}{f'.{generation}' if generation else ''}"


def parse_place(name: str) -> tuple[str, int] | None:
    """The digest and the generation in the last part of a place; None for another name."""
    match = PLACE.fullmatch(name)
    return None if match is None else (match[1], int(match[2] or 0))


def read_chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a few MiB at a time."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write_all(descriptor: int, chunk: bytes) -> None:
    """Write every byte of `chunk`."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def fsync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
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
