"""The output folder: every file's header first, tensors at their final places, and all of it visible at once.

The folder is written as `<name>.partial` beside its final place, and renamed when it is complete and on disk. The lock
on the partial folder is held by the open directory, so it ends with the process, however that ends.

An error or Ctrl-C removes the partial folder; what ends the process at once (SIGKILL, SIGTERM, no memory) leaves it,
and the same merge continues it (merge/output/journal.py). A full disk removes it too: all space is taken before the
first weight is written, so there is nothing worth keeping, and the disk needs the room.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from graftwork.errors import OperationFailed, OutputBusy, OutputExists
from graftwork.merge.output.journal import JOURNAL_FILE, Journal
from graftwork.merge.output.shards import Shard, tensor_bytes
from graftwork.merge.output.weight_files import WeightFiles
from graftwork.registry.storage.blobs import check_space, refuse_full

PARTIAL = ".partial"


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


def check_room(out: Path, needed: int) -> None:
    """Raise StorageFull if the disk of `out` has no room for `needed` bytes; what a killed merge took is used again."""
    partial = out.absolute().with_name(out.name + PARTIAL)
    held = sum(path.stat().st_blocks * 512 for path in partial.glob("*.safetensors")) if partial.is_dir() else 0
    check_space(existing_parent(out), max(0, needed - held))


class OutputFolder:
    """A folder that appears at `out` when its `with` block ends well, and leaves no trace when it does not.

    merge: the identity of what is written; a partial folder that a killed process left of the same is continued
    keep:  asked when the block ends in an error: whether the partial folder stays, for a merge that goes on later

    Raises OutputExists, OutputBusy on entry; StorageFull whenever the disk is full.
    """

    def __init__(self, out: Path, merge: str | None = None, keep: Callable[[], bool] = lambda: False) -> None:
        self.out = out.absolute()
        self.partial = self.out.with_name(self.out.name + PARTIAL)
        self.journal = Journal(self.partial, merge) if merge is not None else None
        self._keep = keep
        self._lock = -1
        self._weights = WeightFiles(self.partial)

    def __enter__(self) -> Self:
        check_target(self.out)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.partial)
        try:
            check_target(self.out)
            if self.journal is None or not self.journal.resumes:
                _empty(self.partial)
            if self.journal is not None:
                self.journal.open()
        except BaseException:
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._weights.settle()
            if error is None:
                self._publish()
            elif isinstance(error, OSError):  # the journal and small files meet a full disk too
                with refuse_full(self.out.parent):
                    raise error
        finally:
            self._abandon(keep=error is not None and self.journal is not None and self._keep())

    def allocate(self, shards: Sequence[Shard]) -> None:
        """Create the weight files at their final size, each with its header, and the index when there are several.

        Files that a killed process left keep their content; anything else it left is removed.
        """
        self._discard({shard.file for shard in shards})
        if self.journal is not None and any(_size(self.partial / s.file) != s.start()[1].size for s in shards):
            self.journal.start_over()
        self._weights.allocate(shards)
        if len(shards) > 1:
            self.write_file("model.safetensors.index.json", _index(shards))

    def write(self, tensor: str, start: int, data: memoryview) -> None:
        """Write a part of a tensor from its byte `start` on; any number of threads may."""
        self._weights.write(tensor, start, data)

    def write_file(self, name: str, content: bytes) -> None:
        """Write one small file."""
        with refuse_full(self.out.parent):
            (self.partial / name).write_bytes(content)

    def _publish(self) -> None:
        with refuse_full(self.out.parent):
            files = [path for path in self.partial.rglob("*") if path.name != JOURNAL_FILE]
            with ThreadPoolExecutor(thread_name_prefix="sync") as pool:  # side by side, they share the disk's commits
                list(pool.map(_sync, files))
            if self.journal is not None:
                self.journal.close(remove=True)
            os.fsync(self._lock)
        try:
            self.partial.rename(self.out)
        except OSError:
            raise OutputExists(path=str(self.out)) from None
        _sync(self.out.parent)

    def _discard(self, keep: set[str]) -> None:
        for path in self.partial.iterdir():
            if path.name not in keep and path.name != JOURNAL_FILE:
                _remove(path)

    def _abandon(self, *, keep: bool = False) -> None:
        self._weights.close()
        if self.journal is not None:
            self.journal.close()
        if self._lock >= 0:
            if not keep and _is_at(self._lock, self.partial):
                shutil.rmtree(self.partial, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def lock_folder(path: Path) -> int:
    """Make the folder if needed and lock it, until the descriptor is closed. Raises OutputBusy."""
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
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


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
