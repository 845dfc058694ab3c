"""`/api/v1/artifacts/{namespace}/{name}/aliases`: the names that move."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import HostDep, NameDep, RegistryDep
from graftwork.api.middleware.errors import respond
from graftwork.api.schemas.aliases import AliasMoveOut, AliasOut, AliasTarget
from graftwork.errors import AliasConflict, AliasNotFound, InvalidRequest
from graftwork.registry.catalog.aliases import ANY, Expected
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.registry import Registry

router = APIRouter(prefix="/artifacts/{namespace}/{name}/aliases", tags=["aliases"])

DIGEST = re.compile(r"[0-9a-f]{64}")
ETAG = re.compile(r'"([0-9a-f]{64})"')

IfMatch = Annotated[str | None, Header(description='`"<digest>"`: the alias must point there now; 412 if not')]
IfNoneMatch = Annotated[str | None, Header(description="`*`: the alias must not exist yet; 412 if it does")]


@router.get("")
def list_aliases(name: NameDep, registry: RegistryDep) -> list[AliasOut]:
    """Where each alias of an artifact points."""
    return [AliasOut.of(entry) for entry in registry.aliases.get(name).values()]


@router.get("/{alias}")
def get_alias(name: NameDep, alias: str, registry: RegistryDep, response: Response) -> AliasOut:
    """Where one alias points; the ETag is the digest."""
    entries = registry.aliases.get(name)
    if alias not in entries:
        raise AliasNotFound(name=name, alias=alias, known=", ".join(entries) or "none")
    response.headers["ETag"] = f'"{entries[alias].digest}"'
    return AliasOut.of(entries[alias])


@router.put("/{alias}", response_model=AliasOut)
def put_alias(
    name: NameDep,
    alias: str,
    body: AliasTarget,
    request: Request,
    response: Response,
    registry: RegistryDep,
    host: HostDep,
    principal: PrincipalDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> AliasOut | Response:
    """Point an alias at a version.

    An adapter whose base is being served is loaded and probed first; if that fails, the alias stays and what served
    before still serves. `expected` that does not hold is answered 409, a header that does not hold 412.
    """
    check_alias(alias)
    expected = _expected(registry, name, body, if_match, if_none_match)
    version = registry.catalog.resolve(Ref.parse(f"{name}@{body.revision}"))
    registry.marks.require_usable(version)
    before = registry.aliases.get(name).get(alias)
    registry.aliases.intend(version.name, alias, version.digest, actor=principal.owner, reason=body.reason)
    host.prepare(version, replaces=before.digest if before is not None else None)
    try:
        entry = registry.aliases.set(
            version.name, alias, version.digest, expected=expected, actor=principal.owner, reason=body.reason
        )
    except AliasConflict as conflict:
        if body.is_conditional:
            raise
        return respond(request, conflict, status=412)
    host.follow(version.name.key, alias)
    response.headers["ETag"] = f'"{entry.digest}"'
    return AliasOut.of(entry)


@router.delete("/{alias}", status_code=204, response_model=None)
def delete_alias(
    name: NameDep,
    alias: str,
    request: Request,
    registry: RegistryDep,
    principal: PrincipalDep,
    if_match: IfMatch = None,
    reason: Annotated[str, Query(max_length=2000, description="kept in the history")] = "",
) -> Response | None:
    """Remove an alias; its history stays."""
    try:
        expected = _digest(if_match) if if_match else ANY
        registry.aliases.delete(name, alias, expected=expected, actor=principal.owner, reason=reason)
    except AliasConflict as conflict:
        return respond(request, conflict, status=412)
    return None


@router.get("/{alias}/history")
def get_history(name: NameDep, alias: str, registry: RegistryDep) -> list[AliasMoveOut]:
    """Every move of an alias, oldest first."""
    return [AliasMoveOut.of(move) for move in registry.aliases.history(name, alias)]


def _expected(
    registry: Registry, name: Name, body: AliasTarget, if_match: str | None, if_none_match: str | None
) -> str | Expected | None:
    """What must be true of the alias before it moves: where it points, None (it does not exist), or ANY."""
    if [body.is_conditional, if_match is not None, if_none_match is not None].count(True) > 1:
        raise InvalidRequest(field="expected", reason="give one of expected, If-Match and If-None-Match")
    if body.is_conditional:
        if body.expected is None or DIGEST.fullmatch(body.expected):
            return body.expected
        return registry.catalog.resolve(Ref.parse(f"{name}@{body.expected}")).digest
    if if_none_match is not None:
        if if_none_match.strip() != "*":
            raise InvalidRequest(field="If-None-Match", reason="only * is understood")
        return None
    return ANY if if_match is None else _digest(if_match)


def _digest(if_match: str) -> str:
    match = ETAG.fullmatch(if_match.strip())
    if match is None:
        raise InvalidRequest(field="If-Match", reason="expected a digest of 64 hexadecimal digits in double quotes")
    return match[1]
