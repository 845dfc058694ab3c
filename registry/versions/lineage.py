"""Where versions came from, and what was made from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from graftwork.registry.db import Database
from graftwork.registry.refs import Ref
from graftwork.registry.tables import EdgeRow, EvaluationRow, MarkRow, VersionRow
from graftwork.registry.versions.descent import Descent, read_descent
from graftwork.registry.versions.marks import Mark, MarkEntry, entries_of
from graftwork.registry.versions.places import Place, chunked, places_of_digests
from graftwork.registry.versions.resolution import find_even_withdrawn
from graftwork.registry.versions.rows import require_known
from graftwork.registry.versions.version import Kind, Version

Direction = Literal["up", "down", "both"]


@dataclass(frozen=True, slots=True)
class Edge:
    """The version `child` was made from `parent`; both are digests."""

    child: str
    parent: str
    relation: str
    weight: float | None
    position: int


@dataclass(frozen=True, slots=True)
class Score:
    """The newest score of a version by one metric on one dataset."""

    dataset: str
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Node:
    """Content in the graph, under all of its names: `refs`, the oldest first and those that were withdrawn last; none
    where all of them are private.

    What was decided about it and how it scored is told under the names that may be seen.
    """

    digest: str
    kind: Kind
    refs: tuple[str, ...]
    marks: tuple[MarkEntry, ...] = ()
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """Content and the edges between. A parent that this registry does not hold has an edge and no node.

    `truncated` when there were more edges than were asked for.
    """

    nodes: list[Node]
    edges: list[Edge]
    truncated: bool = False


class Lineage:
    """Edges as they were recorded when their children were registered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, ref: Ref | str) -> Version:
        """The version that `ref` points at, also one that was withdrawn. Raises what `Catalog.resolve` does."""
        with self._database.read() as session:
            return find_even_withdrawn(session, Ref.parse(ref) if isinstance(ref, str) else ref)

    def descent(self, digest: str, told_by: Collection[str] = ()) -> Descent:
        """All that was made of the version `digest`, each after what it was made of; see `Descendant`.

        told_by: the keys of the metadata that say how something was made
        """
        with self._database.read() as session:
            return read_descent(session, digest, told_by)

    def parents(self, digest: str) -> list[Edge]:
        """What the version `digest` was made from, in order."""
        with self._database.read() as session:
            return _edges(session, {digest}, "up", ())

    def children(self, digest: str) -> list[Edge]:
        """What was made from the version `digest`."""
        with self._database.read() as session:
            return _edges(session, {digest}, "down", ())

    def graph(
        self,
        digest: str,
        depth: int | None = None,
        direction: Direction = "both",
        *,
        relations: Collection[str] = (),
        limit: int | None = None,
    ) -> Graph:
        """The ancestors (`up`), the descendants (`down`) or both of a version, at most `depth` edges away.

        relations: the edges to follow; all where there are none
        limit:     how many edges to find in each direction before it stops, the nearest first

        The version is the first node. Raises RevisionNotFound if the registry does not hold `digest`.
        """
        with self._database.read() as session:
            require_known(session, digest)
            edges: dict[Edge, None] = {}
            truncated = False
            for way in ("up", "down"):
                if direction in (way, "both"):
                    found = _reach(session, digest, depth, way, relations, limit)
                    truncated |= limit is not None and len(found) > limit
                    edges.update(dict.fromkeys(found[:limit]))
            digests = dict.fromkeys([digest, *(end for edge in edges for end in (edge.child, edge.parent))])
            return Graph(_nodes(session, digests), list(edges), truncated)


def _reach(
    session: Session, digest: str, depth: int | None, way: Direction, relations: Collection[str], limit: int | None
) -> list[Edge]:
    found: list[Edge] = []
    seen, frontier = {digest}, {digest}
    while frontier and (depth is None or depth > 0) and (limit is None or len(found) <= limit):
        edges = _edges(session, frontier, way, relations)
        found += edges
        frontier = {edge.parent if way == "up" else edge.child for edge in edges} - seen
        seen |= frontier
        depth = None if depth is None else depth - 1
    return found


def _edges(session: Session, digests: Iterable[str], way: Direction, relations: Collection[str]) -> list[Edge]:
    columns = (EdgeRow.parent, EdgeRow.relation, EdgeRow.weight, EdgeRow.position, EdgeRow.child_id)
    query = select(VersionRow.digest, *columns).join(VersionRow, VersionRow.id == EdgeRow.child_id)
    if relations:
        query = query.where(EdgeRow.relation.in_(relations))
    here = VersionRow.digest if way == "up" else EdgeRow.parent
    rows = [row for some in chunked(digests) for row in session.execute(query.where(here.in_(some)))]
    rows.sort(key=lambda row: (row.child_id, row.position))
    edges = (Edge(row.digest, row.parent, row.relation, row.weight, row.position) for row in rows)
    return list(dict.fromkeys(edges))


def _nodes(session: Session, digests: Iterable[str]) -> list[Node]:
    places = places_of_digests(session, digests)
    visible = {digest: [place for place in found if place.is_visible] for digest, found in places.items()}
    ids = [place.version_id for found in visible.values() for place in found]
    marks: dict[str, list[MarkEntry]] = {}
    scores: dict[int, list[Score]] = {}
    for some in chunked(ids):
        for entry in entries_of(session, MarkRow.version_id.in_(some)):
            marks.setdefault(entry.digest, []).append(entry)
        for version_id, score in _scores(session, some):
            scores.setdefault(version_id, []).append(score)
    gone = {entry.version_id for found in marks.values() for entry in found if entry.mark is Mark.WITHDRAWN}
    return [
        Node(
            digest,
            places[digest][0].kind,
            tuple(place.ref for place in sorted(visible[digest], key=lambda place: place.version_id in gone)),
            tuple(marks.get(digest, ())),
            _without_repeats(visible[digest], scores),
        )
        for digest in digests
        if digest in places
    ]


def _scores(session: Session, ids: Collection[int]) -> list[tuple[int, Score]]:
    newest = (
        select(func.max(EvaluationRow.id).label("id"))
        .where(EvaluationRow.version_id.in_(ids))
        .group_by(EvaluationRow.version_id, EvaluationRow.dataset, EvaluationRow.metric)
        .subquery()
    )
    query = select(EvaluationRow).join(newest, newest.c.id == EvaluationRow.id).order_by(EvaluationRow.id)
    return [(row.version_id, Score(row.dataset, row.metric, row.value)) for row in session.scalars(query)]


def _without_repeats(places: Iterable[Place], scores: dict[int, list[Score]]) -> tuple[Score, ...]:
    return tuple(dict.fromkeys(score for place in places for score in scores.get(place.version_id, ())))
