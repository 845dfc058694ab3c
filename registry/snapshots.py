"""Versions as folders: read-only ones for this registry's own readers, and copies for the world outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from graftwork.errors import CorruptBlob, OutputExists
from graftwork.progress import Progress, silent
from graftwork.registry.blobs import check_space, fsync_folder, read_chunks, refuse_full, write_all
from graftwork.registry.registry import Registry
from graftwork.registry.versions import FileEntry, Version


def materialise(registry: Registry, version: Version) -> Path:
    """A folder with the version's files, made on the first call. It is shared: nothing in it may be written to.

    The files are hard links to the blobs (copies where the file system has no links), so that a reader which refuses
    links out of a folder accepts it. Raises CorruptBlob for a missing blob, StorageFull.
    """
    final = registry.home / "snapshots" / version.digest
    if final.is_dir():
        return final
    final.parent.mkdir(exist_ok=True)
    with registry.blobs.scratch() as scratch, refuse_full(registry.home):
        folder = scratch / version.digest
        for file in version.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(registry.blobs.path(file.sha256), target)
        _appear(folder, final)
    return final


def export(registry: Registry, version: Version, target: Path, progress: Progress = silent) -> None:
    """Copy the version's files to the folder `target`, checked against their digests on the way: all, or nothing.

    Raises OutputExists unless `target` is absent or an empty folder, CorruptBlob, StorageFull.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(path=target)
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    check_space(parent, version.size)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}."))
    try:
        done = 0
        with refuse_full(parent):
            for file in version.files:
                _copy(registry, file, folder / file.path)
                done += file.size
                progress("export", done, version.size)
            folder.chmod(0o755)
            if not _appear(folder, target):
                raise OutputExists(path=target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify(registry: Registry, version: Version, progress: Progress = silent) -> None:
    """Read every file of the version and compare it with its digest. Raises CorruptBlob naming the first bad one."""
    done = 0
    for file in version.files:
        registry.blobs.verify(file.sha256)
        done += file.size
        progress("verify", done, version.size)


def _link(blob: Path, target: Path) -> None:
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)


def _copy(registry: Registry, file: FileEntry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    blob = registry.blobs.path(file.sha256)
    with target.open("xb", buffering=0) as copy:
        for chunk in read_chunks(blob):
            digest.update(chunk)
            write_all(copy.fileno(), chunk)
        os.fsync(copy.fileno())
    if digest.hexdigest() != file.sha256:
        raise CorruptBlob(path=blob, actual=digest.hexdigest(), expected=file.sha256)


def _appear(folder: Path, final: Path) -> bool:
    """Rename a finished folder; False when another process was first."""
    fsync_folder(folder)
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        return False
    fsync_folder(final.parent)
    return True
