"""What a reference points at: an alias first, then a version's number, then the first digits of a digest.

Everything that is served, merged or uploaded begins here, so that a reference takes two statements, made once: one for
the version and one for its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Row, Select, bindparam, select
from sqlalchemy.orm import Session

from graftwork.errors import InvalidReference, RevisionNotFound, VersionWithdrawn
from graftwork.registry.access.access import access, shown
from graftwork.registry.db import moment
from graftwork.registry.refs import Name, Ref
from graftwork.registry.tables import AliasRow, ArtifactRow, BlobRow, FileRow, MarkRow, VersionRow
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.rows import WITHDRAWN, find_artifact, known_revisions, require_seen, unknown
from graftwork.registry.versions.version import Kind, Version

ARTIFACTS, VERSIONS, ALIASES, MARKS = (row.plain() for row in (ArtifactRow, VersionRow, AliasRow, MarkRow))
FILES, BLOBS = FileRow.plain(), BlobRow.plain()
MARKED = (MARKS.c.version_id == VERSIONS.c.id) & (MARKS.c.mark == WITHDRAWN)
POINTING = (ALIASES.c.artifact_id == VERSIONS.c.artifact_id) & (ALIASES.c.digest == VERSIONS.c.digest)
ANY: Select[Any] = select(
    *(VERSIONS.c[name] for name in ("id", "number", "digest", "base", "details", "created_at")),
    *(ARTIFACTS.c[name] for name in ("namespace", "name", "kind", "private")),
    MARKS.c.reason.label("withdrawn"),
).select_from(VERSIONS.join(ARTIFACTS, ARTIFACTS.c.id == VERSIONS.c.artifact_id).outerjoin(MARKS, MARKED))
NAMED = ANY.where(ARTIFACTS.c.key == bindparam("key"))
NEWEST = NAMED.order_by(VERSIONS.c.number.desc()).limit(1)
STANDING = NEWEST.where(MARKS.c.version_id.is_(None))
BY_ALIAS = NAMED.join(ALIASES, POINTING).where(ALIASES.c.alias == bindparam("revision"))
BY_NUMBER = NAMED.where(VERSIONS.c.number == bindparam("revision"))
BY_DIGITS = NAMED.where(VERSIONS.c.digest.startswith(bindparam("revision"))).limit(2)
FIRST = (
    ANY.where(VERSIONS.c.digest == bindparam("digest"))
    .order_by(MARKS.c.version_id.is_not(None), VERSIONS.c.id)
    .limit(1)
)
FILES_OF = (
    select(FILES.c.version_id, FILES.c.path, BLOBS.c.sha256, BLOBS.c.size, BLOBS.c.generation)
    .join(BLOBS, BLOBS.c.id == FILES.c.blob_id)
    .where(FILES.c.version_id.in_(bindparam("ids", expanding=True)))
    .order_by(FILES.c.version_id, FILES.c.path)
)


def find_version(session: Session, ref: Ref) -> Version:
    """The version that `ref` points at.

    Raises ArtifactNotFound, RevisionNotFound, VersionWithdrawn, InvalidReference when several digests start so.
    """
    row = _find(session, ref)
    if row.withdrawn is not None:
        raise VersionWithdrawn(ref=f"{ref.name}@v{row.number}", reason=row.withdrawn or "no reason was given")
    return _version(session, row)


def find_even_withdrawn(session: Session, ref: Ref) -> Version:
    """What `find_version` finds, also when it was withdrawn."""
    return _version(session, _find(session, ref))


def find_first(session: Session, digest: str) -> Version:
    """The version that had this digest first, of those that may be seen; withdrawn ones come last.

    Raises RevisionNotFound.
    """
    return _version(session, _first(session, digest))


def find_id_of_first(session: Session, digest: str) -> int:
    """The id of the row of the version that `find_first` finds. Raises RevisionNotFound."""
    return int(_first(session, digest).id)


def _first(session: Session, digest: str) -> Row[Any]:
    query = FIRST if access.get().visible is None else FIRST.where(shown())
    row = session.execute(query, {"digest": digest}).one_or_none()
    if row is None:
        raise unknown(digest)
    return row


def files_of(session: Session, ids: Iterable[int]) -> Mapping[int, tuple[FileEntry, ...]]:
    """The files of versions by the ids of their rows, in the order of their paths."""
    found: dict[int, list[FileEntry]] = {}
    for row in session.execute(FILES_OF, {"ids": list(ids)}):
        found.setdefault(row.version_id, []).append(FileEntry(row.path, row.sha256, row.size, row.generation))
    return {version_id: tuple(files) for version_id, files in found.items()}


def _find(session: Session, ref: Ref) -> Row[Any]:
    for query, revision in _spellings(ref):
        found = session.execute(query, {"key": ref.name.key, **revision}).all()
        if len(found) > 1:
            expected = "more digits: several versions have a digest that starts so"
            raise InvalidReference(value=str(ref), expected=expected)
        if found:
            require_seen(session, found[0], ref.name)
            return found[0]
    known = known_revisions(session, find_artifact(session, ref.name))
    raise RevisionNotFound(name=ref.name, revision=ref.revision or "latest", known=known)


def _spellings(ref: Ref) -> Iterator[tuple[Select[Any], dict[str, object]]]:
    """The queries for what `ref` may mean, in the order in which they count."""
    if ref.revision is None:
        yield STANDING, {}
        yield NEWEST, {}
        return
    yield BY_ALIAS, {"revision": ref.revision}
    if ref.number is not None:
        yield BY_NUMBER, {"revision": ref.number}
    elif ref.digest_prefix is not None:
        yield BY_DIGITS, {"revision": ref.digest_prefix}


def _version(session: Session, row: Row[Any]) -> Version:
    return Version(
        name=Name(row.namespace, row.name),
        kind=Kind(row.kind),
        number=row.number,
        digest=row.digest,
        base=row.base,
        files=files_of(session, [row.id]).get(row.id, ()),
        metadata=row.details,
        created_at=moment(row.created_at),
    )
