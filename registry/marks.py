"""What was decided about versions after they were made: which ones are quarantined, and which were withdrawn.

A version itself never changes. A quarantine spreads to everything that was made of the version, also to what is
registered later, and goes when the version that it came from is cleared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from graftwork.errors import InvalidRequest, VersionInUse, VersionQuarantined, VersionWithdrawn
from graftwork.registry.audit import record
from graftwork.registry.db import Database, clock
from graftwork.registry.models import AliasRow, EdgeRow, MarkRow, VersionRow
from graftwork.registry.rows import WITHDRAWN, not_withdrawn, withdrawal
from graftwork.registry.versions import Version, moment

SHOWN = 8


class Mark(StrEnum):
    """What a version is marked as."""

    QUARANTINED = "quarantined"
    WITHDRAWN = WITHDRAWN


@dataclass(frozen=True, slots=True)
class MarkEntry:
    """A mark of one version. `cause` is the version whose quarantine spread to it; None where it was set by hand."""

    ref: str
    digest: str
    mark: Mark
    cause: str | None
    actor: str
    reason: str
    marked_at: datetime


class Marks:
    """The marks of all versions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, version: Version) -> list[MarkEntry]:
        """The marks of one version."""
        with self._database.read() as session:
            query = select(MarkRow).where(MarkRow.version_id == _row(session, version).id).order_by(MarkRow.mark)
            return [_entry(session, row) for row in session.scalars(query)]

    def entries(self, mark: Mark | None = None, limit: int = 100) -> list[MarkEntry]:
        """At most `limit` marks, newest first."""
        query = select(MarkRow).order_by(MarkRow.marked_at.desc(), MarkRow.version_id).limit(limit)
        if mark is not None:
            query = query.where(MarkRow.mark == mark)
        with self._database.read() as session:
            return [_entry(session, row) for row in session.scalars(query)]

    def quarantine(self, version: Version, *, actor: str, reason: str) -> list[MarkEntry]:
        """Mark a version and all that was made of it. Returns what is quarantined because of it, itself first."""
        with self._database.write() as session:
            self._database.exclude(session)
            row = _row(session, version)
            session.execute(delete(MarkRow).where(MarkRow.version_id == row.id, MarkRow.mark == Mark.QUARANTINED))
            _set(session, row.id, Mark.QUARANTINED, None, actor, reason)
            _spread(session, row)
            record(session, actor, "version.quarantine", version.ref, {"digest": version.digest, "reason": reason})
            return _because_of(session, row)

    def lift(self, version: Version, *, actor: str, reason: str) -> list[MarkEntry]:
        """Clear a version that was quarantined by hand, and what it alone was the cause for. Returns what was cleared.

        Raises InvalidRequest when the version is not quarantined, or is because of another one.
        """
        with self._database.write() as session:
            self._database.exclude(session)
            row = _row(session, version)
            mark = session.get(MarkRow, (row.id, Mark.QUARANTINED))
            if mark is None:
                raise InvalidRequest(field="version", reason=f"{version.ref} is not quarantined")
            if mark.cause_id is not None:
                cause = _ref(session, mark.cause_id)
                raise InvalidRequest(field="version", reason=f"{version.ref} is quarantined because of {cause}")
            before = _because_of(session, row)
            caused = (MarkRow.version_id == row.id) | (MarkRow.cause_id == row.id)
            session.execute(delete(MarkRow).where(MarkRow.mark == Mark.QUARANTINED, caused))
            for other in session.scalars(_set_by_hand()):
                _spread(session, other)
            record(session, actor, "version.lift", version.ref, {"digest": version.digest, "reason": reason})
            still = set(session.scalars(select(VersionRow.digest).join(MarkRow, MarkRow.version_id == VersionRow.id)))
            return [entry for entry in before if entry.digest not in still]

    def withdraw(self, version: Version, *, actor: str, reason: str) -> None:
        """Delete a version: it answers no reference any more, and its files go after a grace period.

        Its place in the lineage stays. Raises VersionInUse naming the aliases and the versions that refer to it.
        """
        with self._database.write() as session:
            self._database.exclude(session)
            row = _row(session, version)
            if users := _users(session, row):
                raise VersionInUse(ref=version.ref, users=users)
            if session.get(MarkRow, (row.id, Mark.WITHDRAWN)) is None:
                _set(session, row.id, Mark.WITHDRAWN, None, actor, reason)
                record(session, actor, "version.withdraw", version.ref, {"digest": version.digest, "reason": reason})

    def require_usable(self, version: Version) -> None:
        """Raise VersionQuarantined or VersionWithdrawn unless the version may be served, merged and pointed at."""
        with self._database.read() as session:
            require_usable(session, _row(session, version))


def require_usable(session: Session, row: VersionRow) -> None:
    """Raise VersionQuarantined or VersionWithdrawn if the version is marked so."""
    for mark in session.scalars(select(MarkRow).where(MarkRow.version_id == row.id).order_by(MarkRow.mark)):
        because = f", because of {_ref(session, mark.cause_id)}" if mark.cause_id is not None else ""
        error = VersionQuarantined if mark.mark == Mark.QUARANTINED else VersionWithdrawn
        raise error(ref=Version.from_row(row).ref, reason=f"{mark.reason or 'no reason was given'}{because}")


def inherit(session: Session, row: VersionRow, parents: Iterable[str]) -> None:
    """Quarantine a version that was just registered when its own content or one of `parents` is."""
    query = (
        select(MarkRow)
        .join(VersionRow, VersionRow.id == MarkRow.version_id)
        .where(VersionRow.digest.in_({row.digest, *parents}), MarkRow.mark == Mark.QUARANTINED)
        .order_by(MarkRow.version_id)
        .limit(1)
    )
    mark = session.scalar(query)
    if mark is not None and mark.version_id != row.id:
        _set(session, row.id, Mark.QUARANTINED, mark.cause_id or mark.version_id, mark.actor, mark.reason)


def _row(session: Session, version: Version) -> VersionRow:
    query = select(VersionRow).where(VersionRow.digest == version.digest, VersionRow.number == version.number)
    rows = session.scalars(query).all()
    return next(row for row in rows if row.artifact.key == version.name.key)


def _spread(session: Session, root: VersionRow) -> None:
    """Mark what is the same as `root` and what was made of it, unless it is marked already."""
    mark = session.get_one(MarkRow, (root.id, Mark.QUARANTINED))
    seen: set[str] = set()
    frontier = {root.digest}
    while frontier:
        seen |= frontier
        made = select(VersionRow.digest).join(EdgeRow, EdgeRow.child_id == VersionRow.id)
        rows = session.scalars(select(VersionRow.id).where(VersionRow.digest.in_(frontier))).all()
        for version_id in rows:
            if session.get(MarkRow, (version_id, Mark.QUARANTINED)) is None:
                _set(session, version_id, Mark.QUARANTINED, root.id, mark.actor, mark.reason)
        frontier = set(session.scalars(made.where(EdgeRow.parent.in_(frontier)))) - seen


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


def _because_of(session: Session, root: VersionRow) -> list[MarkEntry]:
    caused = (MarkRow.version_id == root.id) | (MarkRow.cause_id == root.id)
    query = select(MarkRow).where(MarkRow.mark == Mark.QUARANTINED, caused)
    ordered = query.order_by(MarkRow.cause_id.is_not(None), MarkRow.version_id)
    return [_entry(session, row) for row in session.scalars(ordered)]


def _users(session: Session, row: VersionRow) -> str:
    """The aliases of a version and what was made of it, unless the same content is there under another name."""
    aliases = select(AliasRow.alias).where(AliasRow.artifact_id == row.artifact_id, AliasRow.digest == row.digest)
    users = [f"the alias {alias}" for alias in session.scalars(aliases.limit(SHOWN))]
    twins = select(VersionRow).where(VersionRow.digest == row.digest, VersionRow.id != row.id)
    if all(withdrawal(session, twin) is not None for twin in session.scalars(twins)):
        made = select(VersionRow).join(EdgeRow, EdgeRow.child_id == VersionRow.id)
        children = session.scalars(made.where(EdgeRow.parent == row.digest, not_withdrawn()).limit(SHOWN)).unique()
        users += [Version.from_row(child).ref for child in children]
    return ", ".join(users)


def _entry(session: Session, row: MarkRow) -> MarkEntry:
    version = Version.from_row(session.get_one(VersionRow, row.version_id))
    cause = None if row.cause_id is None else _ref(session, row.cause_id)
    return MarkEntry(version.ref, version.digest, Mark(row.mark), cause, row.actor, row.reason, moment(row.marked_at))


def _ref(session: Session, version_id: int) -> str:
    return Version.from_row(session.get_one(VersionRow, version_id)).ref
