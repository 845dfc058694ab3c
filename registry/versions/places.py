"""Where versions are, for lists of many: their names and numbers without their files, and whether they may be seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from graftwork.registry.access.access import access
from graftwork.registry.refs import Name
from graftwork.registry.tables import ArtifactRow, VersionRow
from graftwork.registry.versions.version import Kind

T = TypeVar("T")

CHUNK = 500
"""Values that one query compares with; databases take a limited number of parameters."""


@dataclass(frozen=True, slots=True)
class Place:
    """A version under one of the names that its content has."""

    version_id: int
    digest: str
    kind: Kind
    name: Name
    number: int
    private: bool

    @property
    def ref(self) -> str:
        """`ns/name@v3`."""
        return f"{self.name}@v{self.number}"

    @property
    def is_visible(self) -> bool:
        """Whether whom this is done for may see it."""
        return not self.private or access.get().sees(self.name.namespace)

    @property
    def shown(self) -> str:
        """Its reference, or only digits of its digest for whoever may not see it."""
        return self.ref if self.is_visible else f"a private version ({self.digest[:12]})"


def places_of_digests(session: Session, digests: Iterable[str]) -> dict[str, list[Place]]:
    """All names of each digest, the oldest first; a digest that the registry does not hold is left out."""
    found: dict[str, list[Place]] = {}
    for place in _places(session, VersionRow.digest, digests):
        found.setdefault(place.digest, []).append(place)
    return found


def places_of_ids(session: Session, ids: Iterable[int]) -> dict[int, Place]:
    """The places of the rows of versions with these ids."""
    return {place.version_id: place for place in _places(session, VersionRow.id, ids)}


def chunked(values: Iterable[T]) -> Iterator[Sequence[T]]:
    """The values in portions that one query can take."""
    rest = iter(values)
    while portion := list(islice(rest, CHUNK)):
        yield portion


def _places(session: Session, column: InstrumentedAttribute[Any], values: Iterable[object]) -> list[Place]:
    query = select(
        VersionRow.id,
        VersionRow.digest,
        ArtifactRow.kind,
        ArtifactRow.namespace,
        ArtifactRow.name,
        VersionRow.number,
        ArtifactRow.private,
    ).join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
    rows = chain.from_iterable(session.execute(query.where(column.in_(some))).all() for some in chunked(values))
    places = [
        Place(row.id, row.digest, Kind(row.kind), Name(row.namespace, row.name), row.number, row.private)
        for row in rows
    ]
    return sorted(places, key=lambda place: place.version_id)
