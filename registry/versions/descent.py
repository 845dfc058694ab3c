"""What was made of a version, however far down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CTE, ColumnElement, literal, select
from sqlalchemy.orm import Session

from graftwork.registry.tables import EdgeRow, MarkRow, VersionRow
from graftwork.registry.versions.places import Place, chunked, places_of_digests
from graftwork.registry.versions.rows import WITHDRAWN
from graftwork.registry.versions.version import Kind, Parent, Relation


@dataclass(frozen=True, slots=True)
class Descendant:
    """Content that was made of other content: its names that were not withdrawn, and what it was made of, in order.

    `details` is the metadata that says how, from whichever of its names has it.
    """

    digest: str
    kind: Kind
    places: tuple[Place, ...]
    parents: tuple[Parent, ...]
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Descent:
    """All that was made of a version, each after what it was made of; and the names of all of it and of its inputs."""

    descendants: tuple[Descendant, ...]
    places: Mapping[str, list[Place]]


def is_made_of() -> ColumnElement[bool]:
    """The condition that something of the parent of an edge is in its child."""
    return EdgeRow.relation != Relation.REBUILD_OF


def descent(digest: str) -> CTE:
    """The recursive query for the digests (its column `digest`) of a version and of all that was made of it."""
    made = select(literal(digest).label("digest")).cte("made", recursive=True)
    children = (
        select(VersionRow.digest)
        .join(EdgeRow, EdgeRow.child_id == VersionRow.id)
        .join(made, made.c.digest == EdgeRow.parent)
        .where(is_made_of())
    )
    return made.union(children)


def read_descent(session: Session, digest: str, told_by: Iterable[str]) -> Descent:
    """What was made of a version; metadata of a name counts where it has one of the keys `told_by`."""
    digests = [found for found in session.scalars(select(descent(digest).c.digest)) if found != digest]
    parents = _parents(session, digests)
    inputs = {parent.digest for found in parents.values() for parent in found}
    places = places_of_digests(session, dict.fromkeys([digest, *digests, *inputs]))
    ids = [place.version_id for found in digests for place in places[found]]
    gone: set[int] = set()
    details: dict[int, Mapping[str, Any]] = {}
    for some in chunked(ids):
        withdrawn = select(MarkRow.version_id).where(MarkRow.mark == WITHDRAWN, MarkRow.version_id.in_(some))
        gone.update(session.scalars(withdrawn))
        rows = session.execute(select(VersionRow.id, VersionRow.details).where(VersionRow.id.in_(some)))
        details.update((row.id, row.details) for row in rows)
    keys = tuple(told_by)
    descendants = [
        Descendant(
            found,
            places[found][0].kind,
            tuple(place for place in places[found] if place.version_id not in gone),
            tuple(parents[found]),
            next(
                (told for place in places[found] if any(key in (told := details[place.version_id]) for key in keys)), {}
            ),
        )
        for found in _parents_first(digests, parents, places)
    ]
    return Descent(tuple(descendants), places)


def _parents(session: Session, digests: Iterable[str]) -> dict[str, list[Parent]]:
    """What each version was made of, in order; of content under several names, all that any of them says."""
    found: dict[str, dict[Parent, None]] = {}
    columns = (VersionRow.digest, EdgeRow.parent, EdgeRow.relation, EdgeRow.weight, EdgeRow.position, EdgeRow.child_id)
    query = select(*columns).join(EdgeRow, EdgeRow.child_id == VersionRow.id).where(is_made_of())
    rows = [row for some in chunked(digests) for row in session.execute(query.where(VersionRow.digest.in_(some)))]
    for row in sorted(rows, key=lambda row: (row.child_id, row.position)):
        parent = Parent(row.parent, row.relation, row.weight, row.position)
        found.setdefault(row.digest, {})[parent] = None
    return {digest: list(edges) for digest, edges in found.items()}


def _parents_first(
    digests: Iterable[str], parents: Mapping[str, list[Parent]], places: Mapping[str, list[Place]]
) -> list[str]:
    waiting = {
        digest: {parent.digest for parent in parents[digest]} - {digest}
        for digest in sorted(digests, key=lambda digest: places[digest][0].version_id)
    }
    ordered: list[str] = []
    while waiting:
        ready = [digest for digest, needed in waiting.items() if needed.isdisjoint(waiting)]
        for digest in ready or [next(iter(waiting))]:  # the same bytes may come out again further down
            ordered.append(digest)
            del waiting[digest]
    return ordered
