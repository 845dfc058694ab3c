"""Finding an artifact's and a version's row, as the catalog, the aliases and the lineage all do."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, exists, select
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, InvalidReference, RevisionNotFound, VersionWithdrawn
from graftwork.registry.access import access, shown_version
from graftwork.registry.models import AliasRow, ArtifactRow, MarkRow, VersionRow
from graftwork.registry.refs import Name, Ref

KNOWN_SHOWN = 8
WITHDRAWN = "withdrawn"
"""How the table of marks spells it."""


def find_artifact(session: Session, name: Name) -> ArtifactRow:
    """The artifact of that name, in whatever case. Raises ArtifactNotFound, also for a private one of others."""
    row = session.scalar(select(ArtifactRow).where(ArtifactRow.key == name.key))
    if row is None or (row.private and not access.get().sees(row.namespace)):
        raise ArtifactNotFound(name=name)
    return row


def versions_of(artifact: ArtifactRow) -> Select[VersionRow]:
    """The query for an artifact's versions."""
    return select(VersionRow).where(VersionRow.artifact_id == artifact.id)


def find_version(session: Session, ref: Ref) -> VersionRow:
    """The version that `ref` points at: by alias, else by number, else by the first digits of a digest.

    Raises ArtifactNotFound, RevisionNotFound, VersionWithdrawn, InvalidReference when several digests start so.
    """
    row = find_even_withdrawn(session, ref)
    if (mark := withdrawal(session, row)) is not None:
        shown = f"{ref.name}@v{row.number}"
        raise VersionWithdrawn(ref=shown, reason=mark.reason or "no reason was given")
    return row


def withdrawal(session: Session, row: VersionRow) -> MarkRow | None:
    """The mark that says that a version was withdrawn, if it was."""
    return session.get(MarkRow, (row.id, WITHDRAWN))


def require_present(session: Session, digest: str) -> None:
    """Raise VersionWithdrawn when all versions that have this digest were withdrawn."""
    rows = session.scalars(select(VersionRow).where(VersionRow.digest == digest)).all()
    marks = [withdrawal(session, row) for row in rows]
    for row, mark in zip(rows, marks, strict=True):
        if mark is not None and None not in marks:
            shown = f"{row.artifact.namespace}/{row.artifact.name}@v{row.number}"
            raise VersionWithdrawn(ref=shown, reason=mark.reason or "no reason was given")


def not_withdrawn() -> ColumnElement[bool]:
    """The condition that a version of a query was not withdrawn."""
    return ~exists().where(MarkRow.version_id == VersionRow.id, MarkRow.mark == WITHDRAWN)


def find_even_withdrawn(session: Session, ref: Ref) -> VersionRow:
    """What `find_version` finds, also when it was withdrawn."""
    artifact = find_artifact(session, ref.name)
    if ref.revision is None:
        newest = versions_of(artifact).order_by(VersionRow.number.desc()).limit(1)
        standing = session.scalar(newest.where(not_withdrawn()))
        return standing if standing is not None else session.scalars(newest).one()
    alias = session.get(AliasRow, (artifact.id, ref.revision))
    if alias is not None:
        return session.scalars(versions_of(artifact).where(VersionRow.digest == alias.digest)).one()
    found = session.scalars(_by_spelling(artifact, ref)).all() if ref.number or ref.digest_prefix else []
    if len(found) > 1:
        raise InvalidReference(value=str(ref), expected="more digits: several versions have a digest that starts so")
    if not found:
        known = known_revisions(session, artifact)
        raise RevisionNotFound(name=ref.name, revision=ref.revision, known=known)
    return found[0]


def newest_with(session: Session, digest: str) -> VersionRow:
    """The newest version that has this digest, under whichever name. Raises RevisionNotFound."""
    query = select(VersionRow).where(VersionRow.digest == digest, shown_version()).order_by(VersionRow.id.desc())
    row = session.scalar(query.limit(1))
    if row is None:
        raise RevisionNotFound(name="The registry", revision=digest, known="other digests only")
    return row


def known_revisions(session: Session, artifact: ArtifactRow) -> str:
    """The aliases and the newest versions of an artifact, for a message."""
    numbers = select(VersionRow.number).where(VersionRow.artifact_id == artifact.id).order_by(VersionRow.number.desc())
    names = list(session.scalars(select(AliasRow.alias).where(AliasRow.artifact_id == artifact.id).limit(KNOWN_SHOWN)))
    names += [f"v{number}" for number in session.scalars(numbers.limit(KNOWN_SHOWN))]
    return ", ".join(names)


def _by_spelling(artifact: ArtifactRow, ref: Ref) -> Select[VersionRow]:
    query = versions_of(artifact).limit(2)
    if ref.number is not None:
        return query.where(VersionRow.number == ref.number)
    return query.where(VersionRow.digest.startswith(ref.digest_prefix))
