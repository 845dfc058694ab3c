"""A bounded folder of files that were fetched: whole or not there, shared by processes, the least used go first."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT_SECONDS = 60
"""A file that was given to somebody so recently is not removed: it may be about to be opened."""
LOCKS = 64


class FileCache:
    """Files under `root`, at most `limit` bytes of them beside those of the last minute."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root = root
        self.limit = limit

    def create(self) -> None:
        """Make the folder."""
        self.root.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, fetch: Callable[[], Path]) -> Path:
        """The file `name`, a relative path; where it is not there, `fetch` makes it on the same disk, to be moved in.

        Two who ask for one file fetch it once.
        """
        place = self.root / name
        if _use(place):
            return place
        with self._locked(name):
            if not _use(place):
                fetched = fetch()
                place.parent.mkdir(exist_ok=True)
                fetched.rename(place)
                self._evict()
        return place

    def drop(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        slot = hash_slot(name)
        with (self.root / f"{slot}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _evict(self) -> None:
        """Remove the files that were not used for the longest time until the others fit."""
        found = []
        for path in self.root.glob("*/*"):
            with suppress(FileNotFoundError):
                entry = path.stat()
                found.append((entry.st_mtime, entry.st_size, path))
        total = sum(size for _, size, _ in found)
        newest = time.time() - KEPT_SECONDS
        for used, size, path in sorted(found):
            if total <= self.limit or used > newest:
                return
            path.unlink(missing_ok=True)
            total -= size


def hash_slot(name: str) -> int:
    """The lock of a file: one of a few, so that they need not be removed."""
    return sum(name.encode()) % LOCKS


def _use(place: Path) -> bool:
    """Note that a file is used now; False when it is not there."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True
