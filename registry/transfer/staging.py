"""Files on their way into the blob store: each is read once, for its own digest and its tensors' digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InputChanged
from graftwork.progress import Progress
from graftwork.registry.formats.safetensors import Header, TensorInfo, read_header
from graftwork.registry.storage.blobs import BlobStore, StagedBlob, check_space, read_chunks
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import TensorRecord


@dataclass(frozen=True, slots=True)
class Staged:
    """A folder's files, hashed, on the store's disk and ready to be published."""

    files: tuple[FileEntry, ...]
    tensors: tuple[TensorRecord, ...]
    blobs: tuple[StagedBlob, ...]


class TensorDigests:
    """SHA-256 of each tensor of a file whose bytes are fed to it in order."""

    def __init__(self, header: Header) -> None:
        self.digests: dict[str, str] = {}
        self._waiting: Iterator[TensorInfo] = iter(header.tensors.values())
        self._current = next(self._waiting, None)
        self._hash = hashlib.sha256()
        self._position = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the file."""
        view = memoryview(chunk)
        while view:
            tensor = self._current
            if tensor is None:
                return
            started = self._position >= tensor.begin
            taken = view[: (tensor.end if started else tensor.begin) - self._position]
            if started:
                self._hash.update(taken)
            self._position += len(taken)
            view = view[len(taken) :]
            self._close_finished()

    def _close_finished(self) -> None:
        while self._current is not None and self._position == self._current.end:
            self.digests[self._current.name] = self._hash.hexdigest()
            self._current = next(self._waiting, None)
            self._hash = hashlib.sha256()


@contextmanager
def staged(
    store: BlobStore,
    root: Path,
    files: Sequence[str],
    headers: Mapping[str, Header],
    *,
    move: bool,
    progress: Progress,
) -> Iterator[Staged]:
    """Hash `files` of the folder `root`, and copy them to the store's disk for as long as the context lasts.

    With `move`, files that are on that disk already are used where they are and must not be written to again.
    `headers` are those of the safetensors files among them. Raises InputChanged when a file differs from its header
    or is written to meanwhile, StorageFull.
    """
    total = sum((root / file).stat().st_size for file in files)
    in_place = move and root.stat().st_dev == store.root.stat().st_dev
    if not in_place:
        check_space(store.root, total)
    entries, tensors, blobs = [], [], []
    done = 0
    with store.scratch() as scratch:
        for file in files:
            path = (root / file).resolve()
            digests = TensorDigests(headers[file]) if file in headers else None
            chunks = _watched(path, digests, progress, done, total)
            blob = _hash_in_place(path, chunks) if in_place else store.stage(chunks, scratch)
            if digests is not None:
                tensors += _records(file, headers[file], digests, blob)
            entries.append(FileEntry(file, blob.sha256, blob.size))
            blobs.append(blob)
            done += blob.size
        yield Staged(tuple(entries), tuple(tensors), tuple(blobs))


def _watched(path: Path, digests: TensorDigests | None, progress: Progress, done: int, total: int) -> Iterator[bytes]:
    before = path.stat()
    for chunk in read_chunks(path):
        if digests is not None:
            digests.update(chunk)
        done += len(chunk)
        yield chunk
        progress("import", done, total)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise InputChanged(path=path)


def _hash_in_place(path: Path, chunks: Iterator[bytes]) -> StagedBlob:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return StagedBlob(path, digest.hexdigest(), size)


def _records(file: str, header: Header, digests: TensorDigests, blob: StagedBlob) -> list[TensorRecord]:
    if read_header(blob.path, label=file) != header:
        raise InputChanged(path=file)
    return [
        TensorRecord(info.name, info.dtype, info.shape, file, info.begin, info.end, digests.digests[info.name])
        for info in header.tensors.values()
    ]
