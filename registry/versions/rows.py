"""Finding an artifact's and a version's row, as the catalog, the aliases and the lineage all do."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, exists, select
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, RevisionNotFound, VersionWithdrawn
from graftwork.registry.access.access import access, shown, shown_version
from graftwork.registry.refs import Name
from graftwork.registry.tables import AliasRow, ArtifactRow, MarkRow, VersionRow
from graftwork.registry.versions.places import places_of_digests

KNOWN_SHOWN = 8
ALIKE = 3
"""Letters with which a name has to begin alike to be thought of as meant."""
MANY = 500
SIMILAR = 0.8
"""As `difflib` measures it."""
WITHDRAWN = "withdrawn"
"""How the table of marks spells it."""
NAMED = select(ArtifactRow).where(ArtifactRow.key == bindparam("key"))


def find_artifact(session: Session, name: Name) -> ArtifactRow:
    """The artifact of that name, in whatever case. Raises ArtifactNotFound, also for a private one of others."""
    row = session.scalar(NAMED, {"key": name.key})
    if row is None:
        raise _missing(session, name)
    require_seen(session, row, name)
    return row


def require_seen(session: Session, row: ArtifactRow | Row[Any], name: Name) -> None:
    """Raise ArtifactNotFound for an artifact that is private to others, as if there were none of that name.

    row: anything that has an artifact's `private` and `namespace`
    """
    if row.private and not access.get().sees(row.namespace):
        raise _missing(session, name)


def _missing(session: Session, name: Name) -> ArtifactNotFound:
    """That there is no artifact of that name, and one that may be meant: of those that may be seen and begin alike."""
    alike = ArtifactRow.key.startswith(name.key[:ALIKE], autoescape=True)
    query = select(ArtifactRow.key, ArtifactRow.namespace, ArtifactRow.name).where(alike, shown()).limit(MANY)
    names = {row.key: Name(row.namespace, row.name) for row in session.execute(query)}
    similar = [{"similar": names[key]} for key in get_close_matches(name.key, names, n=1, cutoff=SIMILAR)]
    return ArtifactNotFound(name=name, **dict(*similar))


def versions_of(artifact: ArtifactRow) -> Select[VersionRow]:
    """The query for an artifact's versions."""
    return select(VersionRow).where(VersionRow.artifact_id == artifact.id)


def withdrawal(session: Session, row: VersionRow) -> MarkRow | None:
    """The mark that says that a version was withdrawn, if it was."""
    return session.get(MarkRow, (row.id, WITHDRAWN))


def require_present(session: Session, digest: str) -> None:
    """Raise VersionWithdrawn, under a name that may be seen, when all versions that have this digest were withdrawn."""
    places = places_of_digests(session, [digest]).get(digest, [])
    marks = [session.get(MarkRow, (place.version_id, WITHDRAWN)) for place in places]
    gone = [(place, mark) for place, mark in zip(places, marks, strict=True) if mark is not None]
    if gone and len(gone) == len(places):
        place, mark = min(gone, key=lambda one: not one[0].is_visible)
        raise VersionWithdrawn(ref=place.shown, reason=mark.reason or "no reason was given")


def not_withdrawn() -> ColumnElement[bool]:
    """The condition that a version of a query was not withdrawn."""
    return ~exists().where(MarkRow.version_id == VersionRow.id, MarkRow.mark == WITHDRAWN)


def require_known(session: Session, digest: str) -> None:
    """Raise RevisionNotFound unless a version has this digest, under whichever name."""
    if session.scalar(select(VersionRow.id).where(VersionRow.digest == digest, shown_version()).limit(1)) is None:
        raise unknown(digest)


def unknown(digest: str) -> RevisionNotFound:
    """That no version has this digest."""
    return RevisionNotFound(name="The registry", revision=digest, known="other digests only")


def known_revisions(session: Session, artifact: ArtifactRow) -> str:
    """The aliases and the newest versions of an artifact, for a message."""
    numbers = select(VersionRow.number).where(VersionRow.artifact_id == artifact.id).order_by(VersionRow.number.desc())
    names = list(session.scalars(select(AliasRow.alias).where(AliasRow.artifact_id == artifact.id).limit(KNOWN_SHOWN)))
    names += [f"v{number}" for number in session.scalars(numbers.limit(KNOWN_SHOWN))]
    return ", ".join(names)
