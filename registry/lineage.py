"""Where versions came from, and what was made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from graftwork.registry.db import Database
from graftwork.registry.models import EdgeRow, VersionRow
from graftwork.registry.rows import newest_with
from graftwork.registry.versions import Version

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
class Graph:
    """Versions and the edges between them. A parent that this registry does not hold has an edge and no node."""

    nodes: list[Version]
    edges: list[Edge]


class Lineage:
    """Edges as they were recorded when their children were registered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def parents(self, digest: str) -> list[Edge]:
        """What the version `digest` was made from, in order."""
        with self._database.read() as session:
            return _edges(session, {digest}, "up")

    def children(self, digest: str) -> list[Edge]:
        """What was made from the version `digest`."""
        with self._database.read() as session:
            return _edges(session, {digest}, "down")

    def graph(self, digest: str, depth: int | None = None, direction: Direction = "both") -> Graph:
        """The ancestors (`up`), the descendants (`down`) or both of a version, at most `depth` edges away.

        Raises RevisionNotFound if the registry does not hold `digest`.
        """
        with self._database.read() as session:
            start = newest_with(session, digest)
            edges: dict[Edge, None] = {}
            for way in ("up", "down"):
                if direction in (way, "both"):
                    edges.update(dict.fromkeys(_reach(session, digest, depth, way)))
            digests = {digest} | {edge.child for edge in edges} | {edge.parent for edge in edges}
            query = select(VersionRow).where(VersionRow.digest.in_(digests)).order_by(VersionRow.id)
            rows = {row.digest: row for row in session.scalars(query)} | {digest: start}
            return Graph([Version.from_row(row) for row in rows.values()], list(edges))


def _reach(session: Session, digest: str, depth: int | None, way: Direction) -> list[Edge]:
    found: list[Edge] = []
    seen, frontier = {digest}, {digest}
    while frontier and (depth is None or depth > 0):
        edges = _edges(session, frontier, way)
        found += edges
        frontier = {edge.parent if way == "up" else edge.child for edge in edges} - seen
        seen |= frontier
        depth = None if depth is None else depth - 1
    return found


def _edges(session: Session, digests: set[str], way: Direction) -> list[Edge]:
    query = select(VersionRow.digest, EdgeRow).join(VersionRow, VersionRow.id == EdgeRow.child_id)
    query = query.where((VersionRow.digest if way == "up" else EdgeRow.parent).in_(digests))
    rows = session.execute(query.order_by(EdgeRow.child_id, EdgeRow.position))
    edges = (Edge(child, row.parent, row.relation, row.weight, row.position) for child, row in rows)
    return list(dict.fromkeys(edges))
