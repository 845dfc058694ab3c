"""`POST /api/v1/adapters`: upload an adapter."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from graftwork.api import uploads
from graftwork.api.auth import Principal, PrincipalDep
from graftwork.api.deps import Services, ServicesDep
from graftwork.api.schemas.versions import VersionOut
from graftwork.api.uploads import Upload
from graftwork.errors import ArtifactNotFound, GraftworkError
from graftwork.registry.formats import experts
from graftwork.registry.grants import Scope
from graftwork.registry.importer import import_staged
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Kind, Version

router = APIRouter(prefix="/adapters", tags=["artifacts"])

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name", "files"],
                    "properties": {
                        "name": {"type": "string", "description": "NAMESPACE/NAME"},
                        "base": {
                            "type": "string",
                            "description": "the base's reference; needed unless adapter_config.json names it",
                        },
                        "alias": {"type": "string", "description": "an alias to point at the new version"},
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "adapter_config.json, adapter_model.safetensors and what belongs to them; "
                            "or, of an expert set, experts.json and experts.safetensors",
                        },
                    },
                }
            }
        },
    }
}


@router.post("", status_code=201, openapi_extra=FORM, responses={200: {"description": "it was there already"}})
async def upload_adapter(
    request: Request, response: Response, services: ServicesDep, principal: PrincipalDep
) -> VersionOut:
    """Register a PEFT adapter, checked against its base; the ETag is its digest.

    The same content under the same name is the same version: 200 instead of 201. A refused upload leaves nothing.
    """
    async with contextmanager_in_threadpool(services.registry.blobs.scratch()) as folder:
        upload = await uploads.receive(request, folder, limit=services.settings.max_adapter_bytes)
        version, is_new = await run_in_threadpool(_register, services, principal, upload)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/api/v1/artifacts/{version.name}/versions/v{version.number}"
    response.headers["ETag"] = f'"{version.digest}"'
    return VersionOut.of(version)


def _register(services: Services, principal: Principal, upload: Upload) -> tuple[Version, bool]:
    """The version of an upload, and whether it is new. An alias moves as `PUT` would move it."""
    registry, name = services.registry, Name.parse(upload.required("name"))
    principal.require(Scope.WRITE, name.namespace)
    base, alias = upload.one("base"), upload.one("alias")
    if base is not None:
        principal.require_visible(services, Ref.parse(base).name)
    if alias is not None:
        check_alias(alias)
    known = _digests(registry, name)
    try:
        version = import_staged(
            registry,
            upload.folder,
            name,
            kind=Kind.EXPERT_SET if experts.CONFIG_FILE in upload.files else Kind.ADAPTER,
            base=Ref.parse(base) if base is not None else None,
            actor=principal.owner,
        )
    except GraftworkError as error:
        raise upload.as_sent(error) from None
    if alias is not None:
        services.host.prepare(version)
        reason = f"uploaded v{version.number}"
        registry.aliases.set(version.name, alias, version.digest, actor=principal.owner, reason=reason)
    return version, version.digest not in known


def _digests(registry: Registry, name: Name) -> set[str]:
    try:
        return {version.digest for version in registry.catalog.versions(name)}
    except ArtifactNotFound:
        return set()
