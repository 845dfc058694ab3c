"""Uploads in parts: adapters, checkpoints and datasets of any size, gone on with where they were interrupted."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftwork.api.schemas.uploads import PartOut, PartUrlOut, UploadFileOut, UploadOut
from graftwork.api.schemas.versions import RegisteredOut
from graftwork.client.call import Call, Steps, call, silent
from graftwork.errors import SourceNotFound
from graftwork.progress import Progress
from graftwork.progress import silent as untold
from graftwork.registry.formats.dataset import is_dataset
from graftwork.registry.formats.folder import list_files

LEAST_AWAY = 1 << 20
"""Bytes of a part that is worth two more requests, so as not to go through the server."""
EXPECTED = "a checkpoint folder, a PEFT adapter folder, or a .safetensors or .jsonl file"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to send: the path that it is to have, where it is, its size in bytes and its SHA-256."""

    path: str
    place: Path
    size: int
    sha256: str

    @classmethod
    def of(cls, path: str, place: Path) -> LocalFile:
        """Hash a file."""
        with place.open("rb") as file:
            return cls(path, place, place.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())

    def part(self, number: int, size: int) -> bytes:
        """The part of this number, from 1 on, where parts have `size` bytes."""
        with self.place.open("rb") as file:
            file.seek((number - 1) * size)
            return file.read(size)


def begin(
    name: str,
    files: Sequence[LocalFile],
    *,
    kind: str | None = None,
    base: str | None = None,
    aliases: Sequence[str] = (),
    private: bool = False,
) -> Call[UploadOut]:
    """Say what will be sent, and what it is to be registered as."""
    declared = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    body = {"name": name, "kind": kind, "base": base, "aliases": list(aliases), "private": private, "files": declared}
    return call("POST", "/uploads", UploadOut, json=body)


def listing() -> Call[list[UploadOut]]:
    """One's own uploads, without the parts that are stored."""
    return call("GET", "/uploads", list[UploadOut])


def get(upload: str) -> Call[UploadOut]:
    """What is there of an upload."""
    return call("GET", f"/uploads/{upload}", UploadOut)


def put_part(upload: str, path: str, number: int, content: bytes) -> Call[PartOut]:
    """Send one part of a file; the same part may be sent again."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"Content-Digest": f"sha-256=:{digest}:", "Content-Type": "application/octet-stream"}
    place = f"/uploads/{upload}/files/{path}/parts/{number}"
    return call("PUT", place, PartOut, content=content, headers=headers)


def part_url(upload: str, path: str, number: int, sha256: str) -> Call[PartUrlOut]:
    """Ask for a URL at the registry's object storage to PUT one part to; `url` is None where there is none."""
    return call("POST", f"/uploads/{upload}/files/{path}/parts/{number}/url", PartUrlOut, json={"sha256": sha256})


def part_arrived(upload: str, path: str, number: int, sha256: str) -> Call[PartOut]:
    """Say that a part is at its URL."""
    return call("POST", f"/uploads/{upload}/files/{path}/parts/{number}/arrived", PartOut, json={"sha256": sha256})


def complete(upload: str) -> Call[RegisteredOut]:
    """Register what was sent."""
    return call("POST", f"/uploads/{upload}/complete", RegisteredOut)


def abandon(upload: str) -> Call[None]:
    """Give an upload up: its parts are deleted."""
    return silent("DELETE", f"/uploads/{upload}")


def send(
    name: str,
    source: str | Path,
    *,
    kind: str | None = None,
    base: str | None = None,
    aliases: Sequence[str] = (),
    private: bool = False,
    progress: Progress = untold,
) -> Steps[RegisteredOut]:
    """Send a folder or a file in parts and register it as a version of `ns/name`: `client(uploads.send(...))`.

    What an earlier, interrupted `send` of the same files stored is not sent again. Raises SourceNotFound, what listing
    the files raises, and what the server answers.
    """
    place = Path(source)
    files = _files(place)
    if kind is None and is_dataset(place):
        kind = "dataset"
    upload = yield from _begun(name, files, kind, base, aliases, private)
    there = {file.path: file for file in upload.files}
    done, is_away = 0, True
    progress("upload", done, upload.size)
    for file in files:
        for number, size in _parts(there[file.path], upload.part_bytes):
            if number not in {part.number for part in there[file.path].stored}:
                content = file.part(number, upload.part_bytes)
                is_large = size >= LEAST_AWAY
                if is_large and is_away:
                    is_away = yield from _leave(upload.id, file.path, number, content)
                if not (is_large and is_away):
                    yield put_part(upload.id, file.path, number, content)
            done += size
            progress("upload", done, upload.size)
    version: RegisteredOut = yield complete(upload.id)
    return version


def _leave(upload: str, path: str, number: int, content: bytes) -> Steps[bool]:
    """Leave a part at the registry's object storage; False where it has to go to the server."""
    sha256 = hashlib.sha256(content).hexdigest()
    told: PartUrlOut = yield part_url(upload, path, number, sha256)
    if told.url is None:
        return False
    yield Call("PUT", told.url, lambda response: None, content=content, headers=told.headers)
    yield part_arrived(upload, path, number, sha256)
    return True


def _begun(
    name: str, files: Sequence[LocalFile], kind: str | None, base: str | None, aliases: Sequence[str], private: bool
) -> Steps[UploadOut]:
    """The upload of the same that was begun and not ended, with its parts, or a new one."""
    wanted = sorted((file.path, file.size, file.sha256) for file in files)
    for upload in (yield listing()):
        declared = sorted((file.path, file.size, file.sha256) for file in upload.files)
        same = (upload.name, upload.base, upload.aliases, upload.private) == (name, base, list(aliases), private)
        if same and kind in (None, upload.kind) and declared == wanted and upload.version is None:
            begun: UploadOut = yield get(upload.id)
            return begun
    started: UploadOut = yield begin(name, files, kind=kind, base=base, aliases=aliases, private=private)
    return started


def _parts(file: UploadFileOut, part_bytes: int) -> Iterator[tuple[int, int]]:
    for number in range(1, file.parts + 1):
        yield number, min(part_bytes, file.size - (number - 1) * part_bytes)


def _files(source: Path) -> list[LocalFile]:
    if source.is_dir():
        return [LocalFile.of(path, source / path) for path in list_files(source)]
    if not source.is_file():
        raise SourceNotFound(source=str(source), expected=EXPECTED)
    return [LocalFile.of(source.name, source)]
