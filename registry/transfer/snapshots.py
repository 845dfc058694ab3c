"""Versions as folders: read-only ones for this registry's own readers, and copies for the world outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from graftwork.errors import CorruptBlob, OutputExists
from graftwork.progress import Progress, silent
from graftwork.registry.registry import Registry
from graftwork.registry.storage.blobs import check_space, fsync, read_chunks, refuse_full, write_all
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Version


def materialise(registry: Registry, version: Version) -> Path:
    """A folder with the version's files, made on the first call. It is shared: nothing in it may be written to.

    The files are hard links to the blobs (copies where the file system has no links), so that a reader which refuses
    links out of a folder accepts it. It need not outlive a power failure: what is not whole is made again. Raises
    CorruptBlob for a missing blob, StorageFull.
    """
    final = registry.home / "snapshots" / version.digest
    if _is_whole(final, version):
        return final
    final.parent.mkdir(exist_ok=True)
    with registry.blobs.scratch() as scratch, refuse_full(registry.home):
        folder = scratch / version.digest
        for file in version.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(stored_file(registry, version, file), target)
        if final.exists() and not _is_whole(final, version):
            final.rename(scratch / "broken")
        _appear(folder, final)
    return final


def stored_file(registry: Registry, version: Version, file: FileEntry) -> Path:
    """A local file with the bytes of a version's file, not to be written to.

    Raises VersionWithdrawn when they were collected after the version was withdrawn, else CorruptBlob when they are
    gone; StorageUnavailable.
    """
    try:
        return registry.blobs.path(file.sha256, file.generation)
    except CorruptBlob:
        registry.catalog.require_present(version)
        raise


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
                _copy(stored_file(registry, version, file), file, folder / file.path)
                done += file.size
                progress("export", done, version.size)
            folder.chmod(0o755)
            fsync(folder)
            if not _appear(folder, target):
                raise OutputExists(path=target)
            fsync(parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify(registry: Registry, version: Version, progress: Progress = silent) -> None:
    """Read every file of the version and compare it with its digest. Raises CorruptBlob naming the first bad one."""
    done = 0
    for file in version.files:
        registry.blobs.verify(file.sha256, file.generation)
        done += file.size
        progress("verify", done, version.size)


def _is_whole(folder: Path, version: Version) -> bool:
    """Whether every file is there in its size; their contents are the blobs' own."""
    try:
        return all((folder / file.path).stat().st_size == file.size for file in version.files)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _link(blob: Path, target: Path) -> None:
    try:
        os.link(blob, target)
    except OSError:
        shutil.copyfile(blob, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())  # its size may be there before its bytes


def _copy(blob: Path, file: FileEntry, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb", buffering=0) as copy:
        for chunk in read_chunks(blob):
            digest.update(chunk)
            write_all(copy.fileno(), chunk)
        os.fsync(copy.fileno())
    if digest.hexdigest() != file.sha256:
        raise CorruptBlob(path=blob, actual=digest.hexdigest(), expected=file.sha256)


def _appear(folder: Path, final: Path) -> bool:
    """Rename a finished folder; False when another process was first."""
    try:
        folder.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        return False
    return True
