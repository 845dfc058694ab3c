"""Downloads of versions: their files in pieces, checked against their digests, and all of them or nothing."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.api.schemas.versions import FileOut, VersionOut
from graftwork.client import artifacts
from graftwork.client.call import API, Call, Steps, version_path
from graftwork.errors import DigestMismatch, OutputExists
from graftwork.progress import Progress, silent

if TYPE_CHECKING:
    import httpx

PIECE = 16_777_216
"""Bytes of a file that are asked for, and held, at a time."""


def piece(ref: str, path: str, start: int, stop: int) -> Call[bytes]:
    """Bytes `start` .. `stop` of a file of a version."""
    headers = {"Range": f"bytes={start}-{stop - 1}"}
    return Call("GET", API + version_path(ref, "files") + f"/{path}", _content, headers=headers)


def fetch(ref: str, folder: str | Path, *, progress: Progress = silent) -> Steps[VersionOut]:
    """Write a version's files to a folder that is empty or not there yet: `client(downloads.fetch(...))`.

    Raises OutputExists, DigestMismatch, and what the server answers; then nothing is left.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputExists(path=target)
    version: VersionOut = yield artifacts.version(ref)
    parent = target.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}."))
    try:
        done = 0
        for file in version.files:
            yield from _fetch(version, file, aside / file.path)
            done += file.size
            progress("export", done, version.size)
        aside.chmod(0o755)
        aside.rename(target)
    except OSError:
        if target.exists():
            raise OutputExists(path=target) from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return version


def _fetch(version: VersionOut, file: FileOut, place: Path) -> Steps[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256()
    with place.open("wb") as out:
        for start in range(0, file.size, PIECE):
            stop = min(start + PIECE, file.size)
            content: bytes = yield piece(f"{version.name}@{version.digest}", file.path, start, stop)
            sha256.update(content)
            out.write(content)
    if sha256.hexdigest() != file.sha256:
        raise DigestMismatch(what=f"{version.ref}/{file.path}", expected=file.sha256, actual=sha256.hexdigest())


def _content(response: httpx.Response) -> bytes:
    return response.content
