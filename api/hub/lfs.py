"""Large files by git-lfs's batch API (https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md), in one request
or, as the Hub does it, in parts."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response

from graftwork.api.hub import signing
from graftwork.api.hub.bodies import MAX_BODY_BYTES, size_of
from graftwork.api.hub.call import Call
from graftwork.api.hub.paths import XET_ADVICE
from graftwork.api.hub.signing import Grant
from graftwork.api.streams.bodies import parse_object, read_body
from graftwork.api.uploads.bodies import batches
from graftwork.errors import InvalidRequest, TooLarge
from graftwork.registry.arrivals.objects import Incoming, Objects
from graftwork.registry.refs import Name

PART_BYTES = 100_000_000
MAX_OBJECTS = 1000
OID = re.compile(r"[0-9a-f]{64}")
MEDIA_TYPE = "application/vnd.git-lfs+json"
UPLOAD = "upload"
XET_ADVICE_PATH = "/" + "/".join(XET_ADVICE)


def batch(call: Call) -> Response:
    """`POST /NAMESPACE/NAME.git/info/lfs/objects/batch`: where to send each object; nowhere if it is here already."""
    call.repository(writes=True)
    given = parse_object(call.body)
    objects = given.get("objects")
    if given.get("operation") != UPLOAD or not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
        reason = (
            f"an upload of at most {MAX_OBJECTS} objects is expected; files are downloaded by resolve/REVISION/PATH"
        )
        raise InvalidRequest(field="operation", reason=reason)
    announced = sum(size_of(entry) for entry in objects if isinstance(entry, dict))
    call.registry.quotas.require_room(call.name.namespace, announced)
    head = {file.sha256: file.size for file in call.registry.repositories.view(call.name).files}
    answers = [_answer(call, entry, head) for entry in objects]
    body = {"transfer": "basic", "hash_algo": "sha256", "objects": answers}
    return JSONResponse(body, media_type=MEDIA_TYPE)


def _answer(call: Call, entry: Any, head: dict[str, int]) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(oid := entry.get("oid"), str) or not OID.fullmatch(oid):
        raise InvalidRequest(field="objects", reason="an object has an oid, a SHA-256 in lower case, and a size")
    size, objects = size_of(entry), Objects(call.registry.home, call.name)
    answer: dict[str, Any] = {"oid": oid, "size": size}
    limit = call.services.settings.max_checkpoint_bytes
    if size > limit:
        message = f"it has {size} bytes; at most {limit} are accepted (max_checkpoint_bytes)"
        return answer | {"error": {"code": 413, "message": message}}
    if head.get(oid) == size or objects.find(oid, size) is not None:
        return answer
    objects.prepare(size)
    parts = -(-size // PART_BYTES) if size > PART_BYTES else 0
    whole = _link(call, Grant(call.name.key, oid, size, 0, parts))
    header = {f"{n:05d}": _link(call, _part(call.name, oid, size, n)) for n in range(1, parts + 1)}
    upload = {"href": whole} | ({"header": {"chunk_size": str(PART_BYTES), **header}} if parts else {})
    return answer | {"authenticated": True, "actions": {UPLOAD: upload}}


def _part(name: Name, oid: str, size: int, number: int) -> Grant:
    return Grant(name.key, oid, min(PART_BYTES, size - (number - 1) * PART_BYTES), number)


def _link(call: Call, grant: Grant) -> str:
    return f"{call.url}/api/hub/lfs/{signing.sign(call.registry.home, grant)}"


async def receive(call: Call) -> Response:
    """`PUT` to a signed link: the bytes of an object or of a part. Sent again, they change nothing."""
    grant = signing.verify(call.registry.home, call.place.path)
    if grant.parts:
        raise InvalidRequest(field="body", reason="the parts of this object have links of their own")
    objects = Objects(call.registry.home, Name.parse(grant.key))
    announced = call.request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > grant.size:
        raise TooLarge(what="The upload", actual=f"{announced} bytes", limit=f"{grant.size} bytes")
    async with contextmanager_in_threadpool(objects.incoming(grant.size)) as incoming:
        async for data in batches(call.request.stream()):
            await run_in_threadpool(incoming.write, data)
        digest = await run_in_threadpool(_keep, objects, incoming, grant)
    return Response(status_code=200, headers={"ETag": f'"{digest}"'})


def _keep(objects: Objects, incoming: Incoming, grant: Grant) -> str:
    if grant.number:
        return objects.keep_part(incoming, grant.oid, grant.number)
    objects.keep(incoming, grant.oid)
    return grant.oid


async def complete(call: Call) -> Response:
    """`POST` to a signed link: all parts were sent."""
    grant = signing.verify(call.registry.home, call.place.path)
    if not grant.parts:
        raise InvalidRequest(field="body", reason="this object is sent whole, by PUT")
    parse_object(await read_body(call.request, limit=MAX_BODY_BYTES))
    objects = Objects(call.registry.home, Name.parse(grant.key))
    await run_in_threadpool(objects.complete, grant.oid, grant.size, grant.parts)
    return JSONResponse({"success": True})


def xet(call: Call) -> Response:
    """`GET .../xet-write-token/REVISION`: where a client with hf_xet asks where to send large files.

    Such a client shows its user nothing of the answer but the URL that gave it: so it is sent to one that says what to
    do, which answers 400.
    """
    call.repository()
    return RedirectResponse(f"{call.url}{XET_ADVICE_PATH}", HTTPStatus.TEMPORARY_REDIRECT)


def xet_advice(call: Call) -> Response:
    """What `xet` leads to. Raises InvalidRequest."""
    limit = call.services.settings.hub_inline_bytes
    reason = (
        f"this server takes files larger than {limit} bytes by Git LFS and not by Xet: set HF_HUB_DISABLE_XET=1 "
        "in the environment of the client and push again"
    )
    raise InvalidRequest(field="xet", reason=reason)
