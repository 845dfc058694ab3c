"""Aliases: the only mutable thing. They move by compare-and-set, and every move is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.orm import Session, aliased

from graftwork.errors import AliasConflict, AliasNotFound, RevisionNotFound
from graftwork.registry.access.access import doer, require
from graftwork.registry.access.audit import Action, record
from graftwork.registry.access.grants import Scope
from graftwork.registry.catalog.watch import INTENT
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.refs import Name, check_alias
from graftwork.registry.tables import AliasMoveRow, AliasRow, ArtifactRow, VersionRow
from graftwork.registry.versions.marks import require_usable
from graftwork.registry.versions.rows import find_artifact, known_revisions


class Expected(Enum):
    """What a move may ask of the alias besides a digest, or None for an alias that is not there yet."""

    ANY = "any"


ANY = Expected.ANY

ALIASES, VERSIONS, ARTIFACTS = AliasRow.plain(), VersionRow.plain(), ArtifactRow.plain()
OF_ARTIFACT = select(ALIASES).where(ALIASES.c.artifact_id == bindparam("artifact")).order_by(ALIASES.c.alias)
HERE = (ALIASES.c.artifact_id == bindparam("artifact"), ALIASES.c.alias == bindparam("name"))
CURRENT = select(ALIASES).where(*HERE)
POINT = (
    update(ALIASES).where(*HERE).values(digest=bindparam("after"), updated_at=clock()).returning(ALIASES.c.updated_at)
)
ADD = (
    insert(ALIASES)
    .values(artifact_id=bindparam("artifact"), alias=bindparam("name"), digest=bindparam("after"), updated_at=clock())
    .returning(ALIASES.c.updated_at)
)
REMOVE = delete(ALIASES).where(*HERE)
ADD_MOVE = insert(AliasMoveRow.plain()).values(moved_at=clock())
LOCK = select(ARTIFACTS.c.id).where(ARTIFACTS.c.id == bindparam("artifact")).with_for_update()
WITH_DIGEST = select(VERSIONS.c.id).where(
    VERSIONS.c.artifact_id == bindparam("artifact"), VERSIONS.c.digest == bindparam("digest")
)


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """Where an alias is, and since when."""

    alias: str
    digest: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias: created when `before` is None, deleted when `after` is None.

    The digests of the versions, and their references, such as `ns/name@v3`.
    """

    alias: str
    before: str | None
    after: str | None
    before_ref: str | None
    after_ref: str | None
    actor: str
    reason: str
    moved_at: datetime


class Aliases:
    """The aliases of every artifact."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: Name) -> dict[str, AliasEntry]:
        """The aliases of an artifact by their names. Raises ArtifactNotFound."""
        with self._database.read() as session:
            artifact = find_artifact(session, name)
            rows = session.execute(OF_ARTIFACT, {"artifact": artifact.id}).all()
        return {row.alias: _entry(row) for row in rows}

    def set(
        self,
        name: Name,
        alias: str,
        digest: str,
        *,
        expected: str | Expected | None = ANY,
        actor: str = "",
        reason: str = "",
        session: Session | None = None,
    ) -> AliasEntry:
        """Point `alias` at the version `digest` of `name`, if it is at `expected` now (None: if it does not exist);
        with `session`, in its transaction.

        Raises ArtifactNotFound, RevisionNotFound, VersionQuarantined, VersionWithdrawn, InvalidName, AliasConflict when
        it is elsewhere, Forbidden.
        """
        check_alias(alias)
        with self._database.write(session) as opened:
            artifact = find_artifact(opened, name)
            require(Scope.WRITE, artifact.namespace)
            version_id = opened.execute(WITH_DIGEST, {"artifact": artifact.id, "digest": digest}).scalar()
            if version_id is None:
                known = known_revisions(opened, artifact)
                raise RevisionNotFound(name=name, revision=digest, known=known)
            require_usable(opened, version_id)
            return move_alias(opened, artifact.id, alias, digest, expected=expected, actor=actor, reason=reason)

    def intend(self, name: Name, alias: str, digest: str, *, actor: str = "", reason: str = "") -> None:
        """Record that `alias` is to move to a version once engines are ready for it.

        A process that dies in between leaves the alias where it was; whoever asks again starts from the beginning.
        Raises ArtifactNotFound, InvalidName.
        """
        check_alias(alias)
        with self._database.write() as session:
            artifact = find_artifact(session, name)
            before = _digest(_current(session, artifact.id, alias))
            details = {"key": name.key, "alias": alias, "before": before, "after": digest, "reason": reason}
            record(session, actor, INTENT, f"{name}@{alias}", details)

    def delete(
        self, name: Name, alias: str, *, expected: str | Expected = ANY, actor: str = "", reason: str = ""
    ) -> None:
        """Remove `alias`, if it is at `expected`. Raises ArtifactNotFound, AliasNotFound, AliasConflict, Forbidden."""
        with self._database.write() as session:
            artifact = find_artifact(session, name)
            require(Scope.WRITE, artifact.namespace)
            _lock(session, artifact.id)
            before = _digest(_current(session, artifact.id, alias))
            if before is None:
                raise AliasNotFound(name=name, alias=alias, known=known_revisions(session, artifact))
            _expect(before, session, artifact.id, alias, expected)
            session.execute(REMOVE, {"artifact": artifact.id, "name": alias})
            _record(session, artifact.id, alias, before, None, actor, reason)

    def history(self, name: Name, alias: str) -> list[AliasMove]:
        """Every move of `alias`, oldest first, also of one that is deleted. Raises ArtifactNotFound, AliasNotFound."""
        with self._database.read() as session:
            artifact = find_artifact(session, name)
            before, after = aliased(VersionRow), aliased(VersionRow)
            query = select(AliasMoveRow, before.number, after.number).where(
                AliasMoveRow.artifact_id == artifact.id, AliasMoveRow.alias == alias
            )
            for version, digest in ((before, AliasMoveRow.before), (after, AliasMoveRow.after)):
                query = query.outerjoin(version, (version.artifact_id == artifact.id) & (version.digest == digest))
            rows = session.execute(query.order_by(AliasMoveRow.id)).all()
            if not rows:
                raise AliasNotFound(name=name, alias=alias, known=known_revisions(session, artifact))
            own = f"{artifact.namespace}/{artifact.name}"
        return [
            AliasMove(
                row.alias,
                row.before,
                row.after,
                None if left is None else f"{own}@v{left}",
                None if reached is None else f"{own}@v{reached}",
                row.actor,
                row.reason,
                moment(row.moved_at),
            )
            for row, left, reached in rows
        ]


def move_alias(
    session: Session,
    artifact_id: int,
    alias: str,
    digest: str,
    *,
    expected: str | Expected | None = ANY,
    actor: str,
    reason: str,
) -> AliasEntry:
    """Point an alias at a version in a transaction of the caller, who checked the version.

    A move to where it is is none. Raises AliasConflict as `Aliases.set` does.
    """
    _lock(session, artifact_id)
    entry = _current(session, artifact_id, alias)
    before = _digest(entry)
    _expect(before, session, artifact_id, alias, expected)
    if entry is not None and before == digest:
        return entry
    change = POINT if entry is not None else ADD
    since = session.execute(change, {"artifact": artifact_id, "name": alias, "after": digest}).scalar_one()
    _record(session, artifact_id, alias, before, digest, actor, reason)
    return AliasEntry(alias, digest, moment(since))


def _lock(session: Session, artifact_id: int) -> None:
    """Let no other transaction move aliases of the artifact, also those that do not exist yet."""
    if session.connection().dialect.name == "postgresql":  # SQLite has one writer
        session.execute(LOCK, {"artifact": artifact_id})


def _current(session: Session, artifact_id: int, alias: str) -> AliasEntry | None:
    row = session.execute(CURRENT, {"artifact": artifact_id, "name": alias}).one_or_none()
    return None if row is None else _entry(row)


def _entry(row: Row[Any]) -> AliasEntry:
    return AliasEntry(row.alias, row.digest, moment(row.updated_at))


def _digest(entry: AliasEntry | None) -> str | None:
    return None if entry is None else entry.digest


def _expect(
    actual: str | None, session: Session, artifact_id: int, alias: str, expected: str | Expected | None
) -> None:
    if expected is not ANY and actual != expected:
        artifact = session.get_one(ArtifactRow, artifact_id)
        name = Name(artifact.namespace, artifact.name)
        raise AliasConflict(alias=alias, name=name, actual=actual or "no version", expected=expected or "no version")


def _record(
    session: Session, artifact_id: int, alias: str, before: str | None, after: str | None, actor: str, reason: str
) -> None:
    artifact = session.get_one(ArtifactRow, artifact_id)
    action: Action = "alias.move" if after is not None else "alias.delete"
    actor = actor or doer()
    details = {"before": before, "after": after, "reason": reason}
    record(session, actor, action, f"{artifact.namespace}/{artifact.name}@{alias}", details)
    move = {"artifact_id": artifact_id, "alias": alias, "before": before, "after": after}
    session.execute(ADD_MOVE, {**move, "actor": actor, "reason": reason})
