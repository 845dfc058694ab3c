"""What was decided about versions after they were made: which ones are quarantined, and which were withdrawn.

A version itself never changes. A quarantine spreads to everything that was made of the version, also to what is
registered later, and goes when the version that it came from is cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Select, bindparam, delete, exists, insert, literal, null, select
from sqlalchemy.orm import Session, aliased

from graftwork.errors import InvalidRequest, VersionInUse, VersionQuarantined, VersionWithdrawn
from graftwork.registry.access.access import require, shown, shown_version
from graftwork.registry.access.audit import record
from graftwork.registry.access.grants import Scope
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.refs import Name
from graftwork.registry.tables import AliasRow, ArtifactRow, EdgeRow, MarkRow, VersionRow
from graftwork.registry.versions.descent import descent, is_made_of
from graftwork.registry.versions.places import places_of_ids
from graftwork.registry.versions.rows import WITHDRAWN, not_withdrawn, withdrawal
from graftwork.registry.versions.version import Version

SHOWN = 8


class Mark(StrEnum):
    """What a version is marked as."""

    QUARANTINED = "quarantined"
    WITHDRAWN = WITHDRAWN


MARKS, VERSIONS, ARTIFACTS = MarkRow.plain(), VersionRow.plain(), ArtifactRow.plain()
ID_OF = (
    select(VERSIONS.c.id)
    .join(ARTIFACTS, ARTIFACTS.c.id == VERSIONS.c.artifact_id)
    .where(ARTIFACTS.c.key == bindparam("key"), VERSIONS.c.number == bindparam("number"))
)
FIND_QUARANTINE = (
    select(MARKS.c.version_id, MARKS.c.cause_id, MARKS.c.actor, MARKS.c.reason)
    .join(VERSIONS, VERSIONS.c.id == MARKS.c.version_id)
    .where(VERSIONS.c.digest.in_(bindparam("digests", expanding=True)), MARKS.c.mark == Mark.QUARANTINED.value)
    .order_by(MARKS.c.version_id)
    .limit(1)
)
MARKS_OF = (
    select(MARKS.c.mark, MARKS.c.cause_id, MARKS.c.reason)
    .where(MARKS.c.version_id == bindparam("id"))
    .order_by(MARKS.c.mark)
)


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A mark of one version. `cause` is the version whose quarantine spread to it; None where it was set by hand.

    Of private versions of others there is a digest and no reference.
    """

    version_id: int
    ref: str | None
    digest: str
    mark: Mark
    cause: str | None
    cause_digest: str | None
    actor: str
    reason: str
    marked_at: datetime


@dataclass(frozen=True, slots=True)
class Pointer:
    """An alias and the version that it points at."""

    name: Name
    alias: str
    ref: str
    digest: str


class Marks:
    """The marks of all versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, version: Version) -> list[MarkEntry]:
        """The marks of one version."""
        with self._database.read() as session:
            return entries_of(session, MarkRow.version_id == _id(session, version))

    def entries(
        self,
        mark: Mark | None = None,
        limit: int = 100,
        *,
        after: tuple[int, Mark] | None = None,
        by_hand: bool = False,
    ) -> list[MarkEntry]:
        """At most `limit` marks, those of the newest versions first, from the one that follows `after`.

        after:   the `version_id` and the `mark` of the last entry that is known
        by_hand: only those that did not spread from another version
        """
        seen = exists().where(VersionRow.id == MarkRow.version_id, shown_version())
        query = select(MarkRow).where(seen).order_by(MarkRow.version_id.desc(), MarkRow.mark).limit(limit)
        if mark is not None:
            query = query.where(MarkRow.mark == mark)
        if by_hand:
            query = query.where(MarkRow.cause_id.is_(None))
        if after is not None:
            beside = (MarkRow.version_id == after[0]) & (MarkRow.mark > after[1])
            query = query.where((MarkRow.version_id < after[0]) | beside)
        with self._database.read() as session:
            return _entries(session, session.scalars(query).all())

    def quarantine(self, version: Version, *, actor: str, reason: str) -> list[MarkEntry]:
        """Mark a version and all that was made of it. Returns what is quarantined because of it, itself first."""
        with self._database.write() as session:
            require(Scope.WRITE, version.name.namespace)
            self._database.exclude(session)
            row = _row(session, version)
            session.execute(delete(MarkRow).where(MarkRow.version_id == row.id, MarkRow.mark == Mark.QUARANTINED))
            _set(session, row.id, Mark.QUARANTINED, None, actor, reason)
            _spread(session, row)
            record(session, actor, "version.quarantine", version.ref, {"digest": version.digest, "reason": reason})
            return entries_of(session, _because_of(row))

    def pointers(self, version: Version) -> list[Pointer]:
        """The aliases at what is quarantined because of a version, which nothing is served under meanwhile."""
        with self._database.read() as session:
            marked = exists().where(MarkRow.version_id == VersionRow.id, _because_of(_row(session, version)))
            here = (VersionRow.artifact_id == AliasRow.artifact_id) & (VersionRow.digest == AliasRow.digest)
            query = (
                select(ArtifactRow.namespace, ArtifactRow.name, AliasRow.alias, AliasRow.digest, VersionRow.number)
                .join(AliasRow, AliasRow.artifact_id == ArtifactRow.id)
                .join(VersionRow, here)
                .where(marked, shown())
                .order_by(ArtifactRow.key, AliasRow.alias)
            )
            return [
                Pointer(name, row.alias, f"{name}@v{row.number}", row.digest)
                for row in session.execute(query)
                for name in (Name(row.namespace, row.name),)
            ]

    def lift(self, version: Version, *, actor: str, reason: str) -> list[MarkEntry]:
        """Clear a version that was quarantined by hand, and what it alone was the cause for.

        Returns what may be used again: what was cleared and is not withdrawn.

        Raises InvalidRequest when the version is not quarantined, or is because of another one.
        """
        with self._database.write() as session:
            require(Scope.WRITE, version.name.namespace)
            self._database.exclude(session)
            row = _row(session, version)
            mark = session.get(MarkRow, (row.id, Mark.QUARANTINED))
            if mark is None:
                raise InvalidRequest(field="version", reason=f"{version.ref} is not quarantined")
            if mark.cause_id is not None:
                cause = _shown(session, mark.cause_id)
                raise InvalidRequest(field="version", reason=f"{version.ref} is quarantined because of {cause}")
            before = entries_of(session, _because_of(row))
            session.expunge(mark)
            session.execute(delete(MarkRow).where(_because_of(row)))
            for other in session.scalars(_set_by_hand()):
                _spread(session, other)
            record(session, actor, "version.lift", version.ref, {"digest": version.digest, "reason": reason})
            still = set(session.scalars(select(MarkRow.version_id)))
            return [entry for entry in before if entry.version_id not in still]

    def withdraw(self, version: Version, *, actor: str, reason: str) -> None:
        """Delete a version: it answers no reference any more, and its files go after a grace period.

        Its place in the lineage stays. Raises VersionInUse naming the aliases and the versions that refer to it.
        """
        with self._database.write() as session:
            require(Scope.WRITE, version.name.namespace)
            self._database.exclude(session)
            row = _row(session, version)
            if users := _users(session, row):
                raise VersionInUse(ref=version.ref, users=users)
            if session.get(MarkRow, (row.id, Mark.WITHDRAWN)) is None:
                _set(session, row.id, Mark.WITHDRAWN, None, actor, reason)
                record(session, actor, "version.withdraw", version.ref, {"digest": version.digest, "reason": reason})

    def require_none_quarantined(self, digests: Iterable[str]) -> None:
        """Raise VersionQuarantined if one of these versions is, under whichever name."""
        with self._database.read() as session:
            mark = session.execute(FIND_QUARANTINE, {"digests": sorted(set(digests))}).one_or_none()
            if mark is not None:
                require_usable(session, mark.version_id)

    def barred(self, digests: Iterable[str]) -> frozenset[str]:
        """Those of these versions that must not be served: withdrawn or quarantined, under every name they have."""
        with self._database.read() as session:
            return barred(session, VersionRow.digest.in_(set(digests)))

    def require_usable(self, version: Version) -> None:
        """Raise VersionQuarantined or VersionWithdrawn unless the version may be served, merged and pointed at."""
        with self._database.read() as session:
            require_usable(session, _id(session, version))


def barred(session: Session, *conditions: ColumnElement[bool]) -> frozenset[str]:
    """The digests that must not be served, of all versions or of those for which the conditions hold."""
    twin = aliased(VersionRow)
    is_marked = exists().where(MarkRow.version_id == twin.id)
    has_free_twin = exists().where(twin.digest == VersionRow.digest, ~is_marked)
    query = select(VersionRow.digest).join(MarkRow, MarkRow.version_id == VersionRow.id)
    return frozenset(session.scalars(query.where(~has_free_twin, *conditions)))


def require_usable(session: Session, version_id: int) -> None:
    """Raise VersionQuarantined or VersionWithdrawn if the version is marked so."""
    for mark in session.execute(MARKS_OF, {"id": version_id}).all():
        because = f", because of {_shown(session, mark.cause_id)}" if mark.cause_id is not None else ""
        ref, reason = _shown(session, version_id), f"{mark.reason or 'no reason was given'}{because}"
        if mark.mark == Mark.QUARANTINED:
            raise VersionQuarantined(ref=ref, reason=reason)
        raise VersionWithdrawn(ref=ref, reason=reason)


def inherit(session: Session, version_id: int, digests: Iterable[str]) -> None:
    """Quarantine a version that was just registered when its own content or that of a parent is (`digests`)."""
    mark = session.execute(FIND_QUARANTINE, {"digests": sorted(set(digests))}).one_or_none()
    if mark is not None and mark.version_id != version_id:
        _set(session, version_id, Mark.QUARANTINED, mark.cause_id or mark.version_id, mark.actor, mark.reason)


def restore(session: Session, row: VersionRow, actor: str) -> None:
    """Let a version that was withdrawn be there again, now that somebody registers its content anew."""
    if withdrawal(session, row) is not None:
        session.execute(delete(MarkRow).where(MarkRow.version_id == row.id, MarkRow.mark == Mark.WITHDRAWN))
        record(session, actor, "version.restore", Version.from_row(row).ref, {"digest": row.digest})


def entries_of(session: Session, condition: ColumnElement[bool]) -> list[MarkEntry]:
    """The marks for which `condition` holds: those that were set by hand first, then in the order of the versions."""
    query = select(MarkRow).where(condition).order_by(MarkRow.cause_id.is_not(None), MarkRow.version_id, MarkRow.mark)
    return _entries(session, session.scalars(query).all())


def _row(session: Session, version: Version) -> VersionRow:
    return session.get_one(VersionRow, _id(session, version))


def _id(session: Session, version: Version) -> int:
    found: int = session.execute(ID_OF, {"key": version.name.key, "number": version.number}).scalar_one()
    return found


def _spread(session: Session, root: VersionRow) -> None:
    """Mark what is the same as `root` and what was made of it, unless it is marked already."""
    mark = session.get_one(MarkRow, (root.id, Mark.QUARANTINED))
    quarantined = exists().where(MarkRow.version_id == VersionRow.id, MarkRow.mark == Mark.QUARANTINED)
    made = select(descent(root.digest).c.digest)
    marked = (
        literal(Mark.QUARANTINED.value),
        literal(root.id),
        literal(mark.actor),
        literal(mark.reason),
        clock(),
    )
    rows = select(VersionRow.id, *marked).where(VersionRow.digest.in_(made), ~quarantined)
    columns = ["version_id", "mark", "cause_id", "actor", "reason", "marked_at"]
    session.execute(insert(MarkRow).from_select(columns, rows))


def _set(session: Session, version_id: int, mark: Mark, cause: int | None, actor: str, reason: str) -> None:
    values = {"version_id": version_id, "mark": mark, "cause_id": cause, "actor": actor, "reason": reason}
    session.execute(insert(MarkRow).values(**values, marked_at=clock()))


def _set_by_hand() -> Select[VersionRow]:
    return (
        select(VersionRow)
        .join(MarkRow, MarkRow.version_id == VersionRow.id)
        .where(MarkRow.mark == Mark.QUARANTINED, MarkRow.cause_id.is_(None))
        .order_by(VersionRow.id)
    )


def _because_of(root: VersionRow) -> ColumnElement[bool]:
    itself = (MarkRow.version_id == root.id) & MarkRow.cause_id.is_(null())
    return (MarkRow.mark == Mark.QUARANTINED) & (itself | (MarkRow.cause_id == root.id))


def _users(session: Session, row: VersionRow) -> str:
    """The aliases of a version and what was made of it, unless the same content is there under another name."""
    aliases = select(AliasRow.alias).where(AliasRow.artifact_id == row.artifact_id, AliasRow.digest == row.digest)
    users = [f"the alias {alias}" for alias in session.scalars(aliases.limit(SHOWN))]
    twins = select(VersionRow).where(VersionRow.digest == row.digest, VersionRow.id != row.id)
    if all(withdrawal(session, twin) is not None for twin in session.scalars(twins)):
        made = select(VersionRow.id).join(EdgeRow, EdgeRow.child_id == VersionRow.id).distinct()
        children = made.where(EdgeRow.parent == row.digest, is_made_of(), not_withdrawn()).order_by(VersionRow.id)
        users += [place.shown for place in places_of_ids(session, session.scalars(children.limit(SHOWN))).values()]
    return ", ".join(users)


def _entries(session: Session, rows: Sequence[MarkRow]) -> list[MarkEntry]:
    ids = {row.version_id for row in rows} | {row.cause_id for row in rows if row.cause_id is not None}
    places = places_of_ids(session, ids)
    found = []
    for row in rows:
        place, cause = places[row.version_id], None if row.cause_id is None else places[row.cause_id]
        found.append(
            MarkEntry(
                version_id=row.version_id,
                ref=place.ref if place.is_visible else None,
                digest=place.digest,
                mark=Mark(row.mark),
                cause=cause.ref if cause is not None and cause.is_visible else None,
                cause_digest=None if cause is None else cause.digest,
                actor=row.actor,
                reason=row.reason,
                marked_at=moment(row.marked_at),
            )
        )
    return found


def _shown(session: Session, version_id: int) -> str:
    return places_of_ids(session, [version_id])[version_id].shown
