"""The output folder: every file's header first, tensors at their final places, and all of it visible at once.

The folder is written as `<name>.partial` beside its final place, and renamed when it is complete and on disk. The lock
on the partial folder is held by the open directory, so it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from graftwork.errors import OperationFailed, OutputBusy, OutputExists
from graftwork.registry.blobs import refuse_full
from graftwork.registry.formats.safetensors import DTYPE_BYTES, Header, build_header

PARTIAL = ".partial"
FORMAT = {"format": "pt"}
SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Shard:
    """One weight file of the output: its tensors as (name, dtype, shape), in order."""

    file: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]

    def start(self) -> tuple[bytes, Header]:
        """The file's first bytes and its header with absolute offsets."""
        return build_header(self.tensors, FORMAT)


def split_into_shards(tensors: Sequence[tuple[str, str, tuple[int, ...]]], limit: int) -> tuple[Shard, ...]:
    """Tensors in order, in as few files as keep each under `limit` bytes; a larger tensor has a file of its own."""
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for tensor in tensors:
        size = tensor_bytes(tensor[1], tensor[2])
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    if len(groups) == 1:
        return (Shard(SINGLE_FILE, tuple(groups[0])),)
    count = len(groups)
    return tuple(
        Shard(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, start=1)
    )


def tensor_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor's data."""
    size = DTYPE_BYTES[dtype]
    for dimension in shape:
        size *= dimension
    return size


def check_target(out: Path) -> None:
    """Raise OutputExists if `out` is a file or a folder that is not empty, OperationFailed if it cannot be made."""
    if out.is_symlink() or (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir())):
        raise OutputExists(path=str(out))
    parent = existing_parent(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OperationFailed(what=f"Writing {out}", reason=f"{parent} is not a folder that may be written to")


def existing_parent(out: Path) -> Path:
    """The nearest folder above `out` that is there already."""
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    return parent


class OutputFolder:
    """A folder that appears at `out` when its `with` block ends well, and leaves no trace when it does not.

    Raises OutputExists, OutputBusy on entry; StorageFull whenever the disk is full.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.partial = self.out.with_name(self.out.name + PARTIAL)
        self._lock = -1
        self._files: dict[str, int] = {}
        self._places: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        check_target(self.out)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self.partial)
        try:
            check_target(self.out)
            _empty(self.partial)
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            self._abandon()

    def allocate(self, shards: Sequence[Shard]) -> None:
        """Create the weight files at their final size, each with its header, and the index when there are several."""
        for shard in shards:
            start, header = shard.start()
            path = self.partial / shard.file
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._files[shard.file] = file
            with refuse_full(self.out.parent):
                os.posix_fallocate(file, 0, header.size)
                _write_all(file, memoryview(start), 0)
            for name, info in header.tensors.items():
                self._places[name] = file, info.begin
        if len(shards) > 1:
            self.write_file("model.safetensors.index.json", _index(shards))

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """Write a part of a tensor from its byte `start` on; any number of threads may."""
        file, begin = self._places[tensor]
        with refuse_full(self.out.parent):
            _write_all(file, data, begin + start)

    def write_file(self, name: str, content: bytes) -> None:
        """Write one small file."""
        with refuse_full(self.out.parent):
            (self.partial / name).write_bytes(content)

    def _publish(self) -> None:
        with refuse_full(self.out.parent):
            for path in self.partial.rglob("*"):
                _sync(path)
            os.fsync(self._lock)
        try:
            self.partial.rename(self.out)
        except OSError:
            raise OutputExists(path=str(self.out)) from None
        _sync(self.out.parent)

    def _abandon(self) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        if self._lock >= 0:
            if _is_at(self._lock, self.partial):
                shutil.rmtree(self.partial, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _lock_folder(path: Path) -> int:
    while True:
        path.mkdir(exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(folder)
            raise OutputBusy(path=str(path).removesuffix(PARTIAL)) from None
        if _is_at(folder, path):
            return folder
        os.close(folder)


def _is_at(folder: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(folder), path.stat())
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write_all(file: int, data: memoryview, position: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], position + written)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _index(shards: Sequence[Shard]) -> bytes:
    weight_map: Mapping[str, str] = {name: shard.file for shard in shards for name, _, _ in shard.tensors}
    total = sum(tensor_bytes(dtype, shape) for shard in shards for _, dtype, shape in shard.tensors)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2).encode() + b"\n"
