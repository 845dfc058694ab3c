"""What has become of aliases and versions since it was looked the last time, whichever process did it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from graftwork.registry.db import Database
from graftwork.registry.tables import AliasMoveRow, ArtifactRow, AuditRow
from graftwork.registry.versions.marks import barred

INTENT: Final = "alias.intend"
"""The action of an audit entry that says, before an engine is asked to load anything, where an alias is to move."""
PLACE = ("key", "alias", "before", "after")
OVERLAP = 64
"""Rows that are read again, because transactions may become visible in another order than that of their ids."""


@dataclass(frozen=True, slots=True)
class AliasChange:
    """An alias that moved from `before` to `after`, or is about to; `key` is its artifact's name in lower case."""

    key: str
    alias: str
    before: str | None
    after: str
    done: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to aliases since the last time, oldest first; and every digest that must not be served, now."""

    aliases: tuple[AliasChange, ...]
    barred: frozenset[str]
    """Withdrawn or quarantined, under every name that they have."""


class Watch:
    """One reader's place in the history of a registry; it begins now. Not thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: deque[tuple[str, int]] = deque(maxlen=8 * OVERLAP)
        with database.read() as session:
            self._move = session.scalar(select(func.max(AliasMoveRow.id))) or 0
            self._intent = session.scalar(select(func.max(AuditRow.id))) or 0
            self._changes(session)

    def poll(self) -> Changes:
        """What happened since the last call."""
        with self._database.read() as session:
            return Changes(tuple(self._changes(session)), barred(session))

    def _changes(self, session: Session) -> list[AliasChange]:
        found = [*self._intents(session), *self._moves(session)]
        fresh = [(mark, change) for mark, change in found if mark not in self._seen]
        self._seen.extend(mark for mark, _ in fresh)
        return [change for _, change in fresh]

    def _intents(self, session: Session) -> list[tuple[tuple[str, int], AliasChange]]:
        query = select(AuditRow).where(AuditRow.id > self._intent - OVERLAP, AuditRow.action == INTENT)
        rows = session.scalars(query.order_by(AuditRow.id)).all()
        self._intent = session.scalar(select(func.max(AuditRow.id))) or 0
        return [
            (
                ("intent", row.id),
                AliasChange(row.details["key"], row.details["alias"], row.details["before"], after, False),
            )
            for row in rows
            if (after := row.details["after"])
        ]

    def _moves(self, session: Session) -> list[tuple[tuple[str, int], AliasChange]]:
        query = (
            select(AliasMoveRow, ArtifactRow.key)
            .join(ArtifactRow, ArtifactRow.id == AliasMoveRow.artifact_id)
            .where(AliasMoveRow.id > self._move - OVERLAP)
            .order_by(AliasMoveRow.id)
        )
        rows = session.execute(query).all()
        self._move = max([self._move, *(row.id for row, _ in rows)])
        return [
            (("move", row.id), AliasChange(key, row.alias, row.before, row.after, True))
            for row, key in rows
            if row.after is not None
        ]
