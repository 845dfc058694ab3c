"""`POST /api/v1/adapters` and `POST /api/v1/checkpoints`: upload a model in one request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from graftwork.api.dependencies.auth import Principal, PrincipalDep
from graftwork.api.dependencies.services import Services, ServicesDep
from graftwork.api.schemas.versions import RegisteredOut
from graftwork.api.uploads import multipart
from graftwork.api.uploads.bodies import read_small
from graftwork.api.uploads.multipart import Allowed, Upload
from graftwork.api.uploads.registration import Order, describe, kind_of, limit_of, move_aliases, register
from graftwork.errors import InvalidRequest
from graftwork.registry.access.grants import Scope
from graftwork.registry.versions.version import Kind, Version

router = APIRouter(tags=["uploads"])

CHECKPOINT_KINDS = (Kind.BASE, Kind.CHECKPOINT, Kind.TASK_VECTOR)


def _form(files: str, base: str, **more: Any) -> dict[str, Any]:
    """What the OpenAPI document says of a form, which is read as it comes and not by the framework."""
    properties = {
        "name": {"type": "string", "description": "NAMESPACE/NAME", "examples": ["acme/support"]},
        "base": {"type": "string", "description": base, "examples": ["acme/llama"]},
        "alias": {"type": "string", "description": "an alias to point at the new version", "examples": ["prod"]},
        **more,
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": files},
    }
    schema = {"type": "object", "required": ["name", "files"], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _text_fields(form: dict[str, Any]) -> list[str]:
    properties = form["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    return [name for name in properties if name != "files"]


ADAPTER_FORM = _form(
    "adapter_config.json, adapter_model.safetensors and what belongs to them; or, of an expert set, experts.json and "
    "experts.safetensors",
    "the base's reference; needed unless adapter_config.json names it",
)
CHECKPOINT_FORM = _form(
    "config.json, the weights as .safetensors with the index of their shards, and the tokenizer's files",
    "the reference of the model that it was made from, for a checkpoint or a task vector",
    kind={
        "type": "string",
        "enum": [str(kind) for kind in CHECKPOINT_KINDS],
        "description": "without it, a checkpoint when a base is named, else a base",
    },
)
ALREADY: dict[int | str, dict[str, Any]] = {
    200: {"description": "The same content is there already.", "model": RegisteredOut}
}


@router.post("/adapters", status_code=201, openapi_extra=ADAPTER_FORM, responses=ALREADY)
async def upload_adapter(
    request: Request, response: Response, services: ServicesDep, principal: PrincipalDep
) -> RegisteredOut:
    """Register a PEFT adapter, checked against its base; the ETag is its digest.

    The same content under the same name is the same version: 200 instead of 201. A refused upload leaves nothing.
    """
    return await _receive(request, response, services, principal, Kind.ADAPTER)


@router.post("/checkpoints", status_code=201, openapi_extra=CHECKPOINT_FORM, responses=ALREADY)
async def upload_checkpoint(
    request: Request, response: Response, services: ServicesDep, principal: PrincipalDep
) -> RegisteredOut:
    """Register a checkpoint of a few files in one request; a large one is better sent in parts, which can be resumed.

    The same content under the same name is the same version: 200 instead of 201. A refused upload leaves nothing.
    """
    return await _receive(request, response, services, principal, None)


async def _receive(
    request: Request, response: Response, services: Services, principal: Principal, kind: Kind | None
) -> RegisteredOut:
    form = CHECKPOINT_FORM if kind is None else ADAPTER_FORM
    allowed = Allowed(_text_fields(form), limit_of(services.settings, kind))
    body = await read_small(request)
    if body is not None:
        version = await run_in_threadpool(_take, request, body, allowed, services, principal, kind)
    else:
        async with contextmanager_in_threadpool(services.registry.blobs.scratch()) as folder:
            upload = await multipart.receive(request, folder, allowed)
            version = await run_in_threadpool(_register, services, principal, upload, kind)
    return describe(response, version, is_new=version.is_new)


def _take(
    request: Request, body: bytes, allowed: Allowed, services: Services, principal: Principal, kind: Kind | None
) -> Version:
    with services.registry.blobs.scratch() as folder:
        upload = multipart.parse(request, body, folder, allowed)
        return _register(services, principal, upload, kind)


def _register(services: Services, principal: Principal, upload: Upload, kind: Kind | None) -> Version:
    found = kind_of(upload.files)
    if kind is None:
        kind = _checkpoint_kind(upload, found)
    elif found is not None:
        kind = found
    alias = upload.one("alias")
    order = Order.parse(upload.required("name"), kind, upload.one("base"), () if alias is None else (alias,))
    principal.require(Scope.WRITE, order.name.namespace)
    version = register(services, principal, upload.folder, order)
    move_aliases(services, principal, version, order.aliases)
    return version


def _checkpoint_kind(upload: Upload, found: Kind | None) -> Kind | None:
    asked = upload.one("kind")
    if found is not None:
        raise InvalidRequest(field="files", reason=f"they are those of an {found}; send them to /api/v1/adapters")
    if asked is not None and asked not in CHECKPOINT_KINDS:
        expected = ", ".join(CHECKPOINT_KINDS)
        raise InvalidRequest(field="kind", reason=f"{asked[:80]!r} is no kind of checkpoint; accepted are {expected}")
    return Kind(asked) if asked is not None else None
