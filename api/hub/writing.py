"""Commits as the Hub's clients send them: lines of JSON, with small files in them and the SHA-256 of large ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from graftwork.api.hub.bodies import size_of, text
from graftwork.api.hub.call import Call
from graftwork.api.hub.entries import git_blob
from graftwork.api.hub.lfs import OID
from graftwork.api.streams.bodies import parse_object
from graftwork.errors import InvalidRequest, TooLarge
from graftwork.registry.arrivals.objects import Objects
from graftwork.registry.arrivals.repositories import SPELLINGS
from graftwork.registry.formats.folder import is_taken
from graftwork.registry.storage.blobs import StagedBlob, refuse_full
from graftwork.registry.transfer.commits import Addition, Change, Deletion, Operation, Outcome, Reuse, commit
from graftwork.registry.versions.manifest import FileEntry

MAX_FILES = 1000
MAX_OPERATIONS = 20_000
COMMIT_FILES = 8
"""A commit may be as large as so many of the largest files that it can carry."""
LINE_OVERHEAD = 16_384
REGULAR, LFS = "regular", "lfs"
MIN_PARENT = 7


def preupload(call: Call) -> Response:
    """`POST .../preupload/REVISION`: which files the commit carries, and which are sent before; refused ones are told.

    A file that is passed over, such as a picture of the model card, is one to be ignored.
    """
    _require_main(call)
    call.repository(writes=True)
    files = parse_object(call.body).get("files")
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise InvalidRequest(field="files", reason=f"it must be a list of at most {MAX_FILES} files")
    tree = call.registry.repositories.view(call.name).tree
    return JSONResponse({"files": [_mode(call, entry, tree) for entry in files]})


def _mode(call: Call, entry: Any, tree: dict[str, FileEntry]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidRequest(field="files", reason="a file has a path and a size")
    path, size = text(entry, "path"), size_of(entry)
    mode = REGULAR if size <= call.services.settings.hub_inline_bytes else LFS
    known = tree.get(path)
    oid = None
    if known is not None and known.size == size:
        # clients do not send what has this id already: git's for small files, the SHA-256 for large ones
        oid = known.sha256 if mode == LFS else _git_id(call, known)
    return {"path": path, "uploadMode": mode, "shouldIgnore": not is_taken(path), "oid": oid}


def _git_id(call: Call, file: FileEntry) -> str:
    return git_blob(call.registry.blobs.path(file.sha256, file.generation).read_bytes())


async def receive_commit(call: Call) -> Response:
    """`POST .../commit/REVISION`."""
    _require_main(call)
    await run_in_threadpool(call.repository, writes=True)
    limit = COMMIT_FILES * call.services.settings.hub_inline_bytes
    async with contextmanager_in_threadpool(call.registry.blobs.scratch()) as folder:
        with (folder / "commit").open("w+b") as body:
            await _spool(call, body, limit)
            outcome = await run_in_threadpool(_commit, call, body, folder)
    name, revision = outcome.view.name, outcome.view.revision
    said = f"registered as {outcome.view.version.ref}" if outcome.view.version else f"a draft: {outcome.missing}"
    answer = {"success": True, "commitOid": revision, "commitUrl": f"{call.url}/{name}/commit/{revision}"}
    return JSONResponse(answer | {"hookOutput": said})


async def _spool(call: Call, body: BinaryIO, limit: int) -> None:
    received = 0
    try:
        async for chunk in call.request.stream():
            received += len(chunk)
            if received > limit:
                raise TooLarge(what="The commit", actual="more bytes", limit=f"{limit} bytes; commit in smaller steps")
            await run_in_threadpool(_write, call, body, chunk)
    except ClientDisconnect:
        raise InvalidRequest(field="body", reason="the client went away before it was complete") from None


def _write(call: Call, body: BinaryIO, chunk: bytes) -> None:
    with refuse_full(call.registry.home):
        body.write(chunk)


def _commit(call: Call, body: BinaryIO, folder: Path) -> Outcome:
    with refuse_full(call.registry.home):
        body.flush()
    body.seek(0)
    message, parent = "", None
    operations: list[Operation] = []
    for key, value in _lines(call, body):
        if key == "header":
            message = _printable(value.get("summary"))
            parent = _parent(value)
        else:
            operations.append(_operation(call, key, value, folder))
        if len(operations) > MAX_OPERATIONS:
            raise TooLarge(what="The commit", actual="more operations", limit=f"{MAX_OPERATIONS} operations")
    added = sum(operation.blob.size for operation in operations if isinstance(operation, Addition))
    if added:
        call.registry.quotas.require_room(call.name.namespace, added)
    outcome = commit(call.registry, call.name, Change(operations, message, parent), actor=call.principal.owner)
    for operation in operations:
        if isinstance(operation, Addition):
            Objects(call.registry.home, call.name).forget(operation.blob.sha256)
    return outcome


def _lines(call: Call, body: BinaryIO) -> Iterator[tuple[str, dict[str, Any]]]:
    limit = 4 * -(-call.services.settings.hub_inline_bytes // 3) + LINE_OVERHEAD
    while line := body.readline(limit + 1):
        if len(line) > limit:
            most = call.services.settings.hub_inline_bytes
            raise TooLarge(what="A file of the commit", actual="more bytes", limit=f"{most} bytes; send it by LFS")
        if line.strip():
            entry = parse_object(line)
            value = entry.get("value")
            if not isinstance(value, dict):
                raise InvalidRequest(field="value", reason="each line of a commit is an object with a key and a value")
            yield text(entry, "key"), value


def _operation(call: Call, key: str, value: dict[str, Any], folder: Path) -> Operation:
    path = text(value, "path").rstrip("/") if key == "deletedFolder" else text(value, "path")
    match key:
        case "file":
            return Addition(path, _inline(call, path, value, folder))
        case "lfsFile":
            return _large(call, path, value)
        case "deletedFile" | "deletedFolder":
            return Deletion(path, is_folder=key == "deletedFolder")
    raise InvalidRequest(field="key", reason=f"{key[:40]!r} is none of file, lfsFile, deletedFile, deletedFolder")


def _inline(call: Call, path: str, value: dict[str, Any], folder: Path) -> StagedBlob:
    content = value.get("content")
    if not isinstance(content, str) or value.get("encoding", "base64") != "base64":
        raise InvalidRequest(field="content", reason=f"the content of {path!r} is not base64")
    try:
        raw = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(field="content", reason=f"the content of {path!r} is not base64") from None
    return call.registry.blobs.stage([raw], folder)


def _large(call: Call, path: str, value: dict[str, Any]) -> Operation:
    oid = value.get("oid")
    if not isinstance(oid, str) or OID.fullmatch(oid) is None:
        raise InvalidRequest(field="oid", reason=f"the oid of {path!r} is not a SHA-256 in lower case")
    place = Objects(call.registry.home, call.name).find(oid)
    if place is not None:
        return Addition(path, StagedBlob(place, oid, place.stat().st_size))
    if any(file.sha256 == oid for file in call.registry.repositories.view(call.name).files):
        return Reuse(path, oid)
    raise InvalidRequest(field="oid", reason=f"{path!r} was not uploaded: {oid} is unknown here")


def _parent(header: dict[str, Any]) -> str | None:
    if header.get("parentCommit") is None:
        return None
    parent = text(header, "parentCommit")
    if len(parent) < MIN_PARENT:
        raise InvalidRequest(field="parentCommit", reason=f"it must be {MIN_PARENT} to 40 digits of a commit")
    return parent.lower()


def _printable(value: object) -> str:
    """A commit's message as it can be stored."""
    return str(value or "").replace("\0", "").encode("utf-8", "replace").decode()


def _require_main(call: Call) -> None:
    if call.flag("create_pr"):
        raise InvalidRequest(field="create_pr", reason="there are no pull requests here; commit to main")
    if call.place.revision not in SPELLINGS:
        reason = (
            f"commits go to main, not to {call.place.revision!r}; the version that one becomes is given an alias by "
            f"PUT /api/v1/artifacts/{call.name}/aliases/ALIAS, or by create_tag"
        )
        raise InvalidRequest(field="revision", reason=reason)
