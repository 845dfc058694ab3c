"""`/api/v1/audit`: who changed what. For administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.dependencies.pages import PagesDep
from graftwork.api.dependencies.services import RegistryDep
from graftwork.api.schemas.audit import AuditOut

router = APIRouter(prefix="/audit", tags=["audit"])


@router.get("")
def list_changes(
    pages: PagesDep,
    registry: RegistryDep,
    target: Annotated[
        str | None, Query(max_length=512, description="a reference, or the beginning of one up to a `/` or an `@`")
    ] = None,
    actor: Annotated[str | None, Query(max_length=256)] = None,
    action: Annotated[str | None, Query(max_length=64, description="such as `alias.move`, or only `alias`")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        int | None, Query(ge=1, lt=2**63, description="the id of the last entry of the page before")
    ] = None,
) -> list[AuditOut]:
    """What was changed, newest first; `Link: rel="next"` leads to what happened before."""
    found = registry.audit.entries(target=target, actor=actor, action=action, limit=limit + 1, before=before)
    page = pages.page(found, limit, lambda entry: entry.id, parameter="before")
    return [AuditOut.of(entry) for entry in page]
