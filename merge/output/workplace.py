"""Where a merge into the registry is written until it is imported: the same folder for the same merge."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from graftwork.errors import OutputBusy
from graftwork.merge.output.writer import lock_folder


@contextmanager
def workplace(scratch: Path, merge: str | None, keep: Callable[[], bool]) -> Iterator[Path]:
    """A folder for the merge of this identity, beside `scratch` in the blob store's temporary folder.

    It is held by a lock and removed at the end. A process that is killed leaves it, and so does an error after which
    `keep` says so: whoever carries out the same merge next goes on in it. Nobody does within a day: the store sweeps
    it away. `scratch` itself serves merges without an identity, and where another process is at the same merge.
    """
    lock = None if merge is None else _locked(scratch.parent / f"merge-{merge[:32]}")
    if merge is None or lock is None:
        yield scratch
        return
    folder = scratch.parent / f"merge-{merge[:32]}"
    stays = False
    try:
        shutil.rmtree(folder / "merged", ignore_errors=True)  # whole, but the import of it was killed
        yield folder
    except BaseException:
        stays = keep()
        raise
    finally:
        if not stays:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    try:
        return lock_folder(folder)
    except OutputBusy:
        return None
