"""`/api/v1/uploads`: models of any size in parts, each with its SHA-256; a client can always send the rest."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from sqlalchemy.orm import Session

from graftwork.api.dependencies.auth import Principal, PrincipalDep
from graftwork.api.dependencies.services import Services, ServicesDep
from graftwork.api.schemas.uploads import PartDigest, PartOut, PartUrlOut, UploadOut, UploadRequest
from graftwork.api.schemas.versions import RegisteredOut
from graftwork.api.uploads.bodies import content_digest, discard, receive_part, stream_of
from graftwork.api.uploads.multipart import FILE_NAME
from graftwork.api.uploads.registration import Order, describe, kind_of, limit_of, move_aliases, register
from graftwork.errors import SourceNotFound, TooLarge, UnsafeFile, UploadNotFound
from graftwork.registry.access.grants import Scope
from graftwork.registry.arrivals.intents import DeclaredFile, Intent, part_bytes
from graftwork.registry.arrivals.uploads import Upload, check_digests
from graftwork.registry.formats.folder import MAX_PATH, Spellings, check_kind, is_taken
from graftwork.registry.refs import Ref
from graftwork.registry.versions.version import Kind, Version

router = APIRouter(prefix="/uploads", tags=["uploads"])

MAX_DEPTH = 8
PRESIGNED_SECONDS = 3600
ID = re.compile(r"[0-9a-f]{32}")
PART_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
STORED: dict[int | str, dict[str, Any]] = {200: {"description": "It was stored already.", "model": PartOut}}
REGISTERED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The same content is there already.", "model": RegisteredOut}
}
ContentDigest = Annotated[
    str,
    Header(
        alias="Content-Digest",
        description="the SHA-256 of the part as RFC 9530 writes it",
        examples=["sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"],
    ),
]


@router.post("", status_code=201)
def begin_upload(body: UploadRequest, response: Response, services: ServicesDep, principal: PrincipalDep) -> UploadOut:
    """Begin an upload in parts: say what will be sent and what it is to be registered as.

    What could not be registered whatever its bytes are is refused here, before any are sent.
    """
    files = tuple(DeclaredFile(file.path, file.size, file.sha256) for file in body.files)
    _check_paths(files)
    kind = body.kind or kind_of(file.path for file in files)
    order = Order.parse(body.name, kind, body.base, body.aliases)
    order.check(services, principal)
    wanted = part_bytes(files, services.settings.upload_part_bytes)
    intent = Intent(body.name, kind, body.base, order.aliases, files, wanted, body.private)
    limit = limit_of(services.settings, kind)
    if intent.size > limit:
        raise TooLarge(what="The upload", actual=f"{intent.size} bytes", limit=f"{limit} bytes")
    uploads, namespace = services.registry.uploads, order.name.namespace
    services.registry.quotas.require_room(namespace, intent.size + uploads.reserved(namespace))
    upload = uploads.create(principal.owner, namespace, intent, most=services.settings.uploads_per_owner)
    response.headers["Location"] = f"/api/v1/uploads/{upload.id}"
    return UploadOut.of(upload, services.settings.upload_hours)


@router.get("")
def list_uploads(services: ServicesDep, principal: PrincipalDep) -> list[UploadOut]:
    """One's own uploads, oldest first, without the parts that are stored."""
    hours = services.settings.upload_hours
    return [UploadOut.of(upload, hours) for upload in services.registry.uploads.list(principal.owner)]


@router.get("/{upload_id}")
def get_upload(upload_id: str, services: ServicesDep, principal: PrincipalDep) -> UploadOut:
    """What is there of an upload, so that a client knows what is left to send."""
    return UploadOut.of(_find(services, principal, upload_id), services.settings.upload_hours)


@router.put("/{upload_id}/files/{path:path}/parts/{number}", status_code=201, openapi_extra=PART_BODY, responses=STORED)
async def put_part(
    upload_id: str,
    path: str,
    number: int,
    content_digest_header: ContentDigest,
    request: Request,
    response: Response,
    services: ServicesDep,
    principal: PrincipalDep,
) -> PartOut:
    """Send one part: `part_bytes` bytes, fewer only in a file's last one. Parts may come in any order and at once.

    The same part again is answered 200; other content for a part that is stored is refused.
    """
    upload = await run_in_threadpool(_find, services, principal, upload_id)
    sha256 = content_digest(request)
    file = _declared(upload, path, number)
    size = upload.intent.part_size(file, number)
    what = f"Part {number} of {file.path}"
    if upload.parts.get(file.path, {}).get(number) == sha256:
        await discard(request, stream_of(request))
        response.status_code = 200
        return PartOut(path=file.path, number=number, size=size, sha256=sha256)
    async with contextmanager_in_threadpool(services.registry.blobs.scratch()) as folder:
        place = folder / "part"
        await receive_part(request, place, size=size, sha256=sha256, what=what)
        is_new = await run_in_threadpool(services.registry.uploads.store_part, upload, file, number, place, sha256)
    response.status_code = 201 if is_new else 200
    return PartOut(path=file.path, number=number, size=size, sha256=sha256)


@router.post("/{upload_id}/files/{path:path}/parts/{number}/url")
def sign_part(
    upload_id: str, path: str, number: int, body: PartDigest, services: ServicesDep, principal: PrincipalDep
) -> PartUrlOut:
    """Where the registry's bytes are in an object storage: a URL to PUT a part there, and not through this server.

    It takes that part only; then tell that it has arrived. `url` is null where parts have to be sent here.
    """
    upload = _find(services, principal, upload_id)
    file = _declared(upload, path, number)
    size, name = upload.intent.part_size(file, number), _arrival(upload, file, number)
    signed = services.registry.blobs.presign_arrival(name, body.sha256, size, seconds=PRESIGNED_SECONDS)
    if signed is None:
        return PartUrlOut(url=None, headers={}, seconds=0)
    return PartUrlOut(url=signed.url, headers=dict(signed.headers), seconds=PRESIGNED_SECONDS)


@router.post("/{upload_id}/files/{path:path}/parts/{number}/arrived", status_code=201, responses=STORED)
def take_part(
    upload_id: str,
    path: str,
    number: int,
    body: PartDigest,
    response: Response,
    services: ServicesDep,
    principal: PrincipalDep,
) -> PartOut:
    """Say that a part is at the URL that was signed for it: it is read, compared with its SHA-256, and stored."""
    upload = _find(services, principal, upload_id)
    file = _declared(upload, path, number)
    size, name = upload.intent.part_size(file, number), _arrival(upload, file, number)
    is_new = upload.parts.get(file.path, {}).get(number) != body.sha256
    blobs = services.registry.blobs
    if is_new:
        with blobs.scratch() as folder:
            blobs.fetch_arrival(name, body.sha256, size, folder / "part")
            is_new = services.registry.uploads.store_part(upload, file, number, folder / "part", body.sha256)
    blobs.drop_arrival(name)
    response.status_code = 201 if is_new else 200
    return PartOut(path=file.path, number=number, size=size, sha256=body.sha256)


@router.post("/{upload_id}/complete", status_code=201, responses=REGISTERED)
def complete_upload(
    upload_id: str, response: Response, services: ServicesDep, principal: PrincipalDep
) -> RegisteredOut:
    """Check the files and register them as a version; once that is done, asking again gives the same answer.

    An upload that is refused stays as it is until it is deleted or expires.
    """
    _find(services, principal, upload_id)
    registry = services.registry
    with registry.blobs.scratch() as folder, registry.uploads.whole(upload_id, folder) as upload:
        order = _order(upload)
        if upload.registered is None:
            order.check(services, principal)

            def enter(session: Session, version: Version) -> None:
                check_digests(upload, {file.path: file.sha256 for file in version.files})
                registry.uploads.enter_version(session, upload_id, version, is_new=version.is_new)
                if upload.intent.private:
                    registry.repositories.set_private(version.name, True, actor=principal.owner, session=session)

            version = register(services, principal, folder, order, also=enter)
            is_new = version.is_new
        else:
            version = registry.catalog.resolve(Ref(order.name, upload.registered))
            is_new = upload.is_new
        if not upload.is_done:
            move_aliases(services, principal, version, order.aliases)
            registry.uploads.finish(upload_id)
    return describe(response, version, is_new=is_new)


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: str, services: ServicesDep, principal: PrincipalDep) -> None:
    """Give an upload up: its parts are deleted. A version that it has become stays."""
    _find(services, principal, upload_id)
    services.registry.uploads.delete(upload_id)


def _find(services: Services, principal: Principal, upload_id: str) -> Upload:
    """An upload of one's own, in a namespace where one may write still."""
    if ID.fullmatch(upload_id) is None:
        raise UploadNotFound(id=upload_id)
    upload = services.registry.uploads.get(upload_id)
    if upload.owner != principal.owner:
        raise UploadNotFound(id=upload_id)
    principal.require(Scope.WRITE, upload.namespace)
    return upload


def _order(upload: Upload) -> Order:
    intent = upload.intent
    kind = Kind(intent.kind) if intent.kind is not None else None
    return Order.parse(intent.name, kind, intent.base, intent.aliases)


def _arrival(upload: Upload, file: DeclaredFile, number: int) -> str:
    """What a part is called in the storage that it is left in."""
    return f"{upload.id}/{upload.intent.files.index(file)}.{number}"


def _declared(upload: Upload, path: str, number: int) -> DeclaredFile:
    file = next((file for file in upload.intent.files if file.path == path), None)
    if file is None:
        raise SourceNotFound(source=path, expected="one of the files that were declared")
    parts = upload.intent.parts(file)
    if not 1 <= number <= parts:
        expected = f"part 1 to {parts}" if parts else "no part, because the file is empty"
        raise SourceNotFound(source=f"{path}, part {number}", expected=expected)
    return file


def _check_paths(files: tuple[DeclaredFile, ...]) -> None:
    """Raise UnsafeFile for a path that could be misunderstood by any disk, or a file that may hold code."""
    known = Spellings()
    for file in files:
        parts = file.path.split("/")
        plain = len(parts) <= MAX_DEPTH and len(file.path) <= MAX_PATH and all(map(FILE_NAME.fullmatch, parts))
        if not plain or ".." in parts:
            reason = f"a file of an upload has a plain name of A-Z a-z 0-9 . _ -, in at most {MAX_DEPTH - 1} folders"
            raise UnsafeFile(path=repr(file.path[:80]), reason=reason)
        check_kind(file.path)
        if not is_taken(file.path):
            raise UnsafeFile(path=file.path, reason="files in folders of this name are left out of models")
        known.add(file.path)
