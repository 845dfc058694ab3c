"""Quarantine and withdrawal: `/api/v1/marks`, and what is done to a version under its own address."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.pages import PagesDep
from graftwork.api.dependencies.services import NameDep, RegistryDep
from graftwork.api.schemas.marks import MarkOut, QuarantineOut, QuarantineRequest
from graftwork.errors import InvalidRequest
from graftwork.registry.refs import Ref
from graftwork.registry.versions.marks import Mark

router = APIRouter(tags=["marks"])

VERSION = "/artifacts/{namespace}/{name}/versions/{revision}"

Reason = Annotated[str, Query(max_length=2000, description="kept in the audit log")]


@router.get("/marks")
def list_marks(
    pages: PagesDep,
    registry: RegistryDep,
    mark: Mark | None = None,
    by_hand: Annotated[bool, Query(description="without what a quarantine spread to")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=40, description="where the page before ended; see `Link`")] = None,
) -> list[MarkOut]:
    """What is quarantined and what was withdrawn, the newest versions first; `Link: rel="next"` leads to the rest."""
    found = registry.marks.entries(mark, limit + 1, after=_position(after), by_hand=by_hand)
    page = pages.page(found, limit, lambda last: f"{last.version_id}.{last.mark}")
    return [MarkOut.of(entry) for entry in page]


@router.put(f"{VERSION}/quarantine")
def quarantine_version(
    name: NameDep, revision: str, body: QuarantineRequest, registry: RegistryDep, principal: PrincipalDep
) -> QuarantineOut:
    """Quarantine a version and all that was made of it: none of it is served, merged or pointed at any more.

    What is made of it later is quarantined too. Aliases stay where they are and are in the answer.
    """
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    marked = registry.marks.quarantine(version, actor=principal.owner, reason=body.reason)
    return QuarantineOut.of(marked, registry.marks.pointers(version))


@router.delete(f"{VERSION}/quarantine")
def lift_quarantine(
    name: NameDep, revision: str, registry: RegistryDep, principal: PrincipalDep, reason: Reason = ""
) -> list[MarkOut]:
    """Clear a version that was quarantined by hand, and whatever was quarantined because of it alone."""
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    cleared = registry.marks.lift(version, actor=principal.owner, reason=reason)
    return [MarkOut.of(entry) for entry in cleared]


@router.delete(VERSION)
def withdraw_version(
    name: NameDep, revision: str, registry: RegistryDep, principal: PrincipalDep, reason: Reason = ""
) -> list[MarkOut]:
    """Delete a version: it is answered 410 from now on, and its files go after a grace period.

    It stays in the lineage. While an alias or another version refers to it, it cannot be deleted. Returns its marks.
    """
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    registry.marks.withdraw(version, actor=principal.owner, reason=reason)
    return [MarkOut.of(entry) for entry in registry.marks.of(version)]


def _position(after: str | None) -> tuple[int, Mark] | None:
    if after is None:
        return None
    number, _, mark = after.partition(".")
    if not (number.isascii() and number.isdecimal() and len(number) < 19 and mark in tuple(Mark)):
        raise InvalidRequest(field="after", reason=f"{after!r} is not what `Link` says")
    return int(number), Mark(mark)
