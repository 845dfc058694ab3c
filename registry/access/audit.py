"""The audit log: who changed what, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from graftwork.context import request_id
from graftwork.registry.access.access import doer
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.tables import AuditRow

Action = Literal[
    "alias.delete",
    "alias.intend",
    "alias.move",
    "artifact.private",
    "artifact.tags",
    "gc.apply",
    "quota.set",
    "repository.commit",
    "repository.create",
    "repository.delete",
    "schedule.change",
    "schedule.create",
    "schedule.pause",
    "schedule.remove",
    "schedule.resume",
    "token.create",
    "token.revoke",
    "version.lift",
    "version.quarantine",
    "version.register",
    "version.restore",
    "version.withdraw",
]
ACTIONS: tuple[Action, ...] = get_args(Action)
ADD = insert(AuditRow.plain()).values(happened_at=clock())


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `request` is the id of the HTTP request that it came with, if it did."""

    id: int
    happened_at: datetime
    actor: str
    action: str
    target: str
    details: Mapping[str, Any]
    request: str | None


class Audit:
    """The log; entries are only ever added."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, actor: str, action: Action, target: str, details: Mapping[str, Any]) -> None:
        """Add an entry in a transaction of its own."""
        with self._database.write() as session:
            record(session, actor, action, target, details)

    def entries(
        self,
        *,
        target: str | None = None,
        actor: str | None = None,
        action: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[AuditEntry]:
        """At most `limit` entries, newest first, of those older than the entry `before`.

        target: a reference, or the beginning of one up to a `/` or an `@`
        action: such as `alias.move`, or the beginning of one up to its dot
        """
        query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if target is not None:
            below, at = (AuditRow.target.startswith(f"{target}{mark}", autoescape=True) for mark in "/@")
            query = query.where((AuditRow.target == target) | below | at)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        if action is not None:
            inside = AuditRow.action.startswith(f"{action}.", autoescape=True)
            query = query.where((AuditRow.action == action) | inside)
        if before is not None:
            query = query.where(AuditRow.id < before)
        with self._database.read() as session:
            return [
                AuditEntry(
                    row.id, moment(row.happened_at), row.actor, row.action, row.target, row.details, row.request_id
                )
                for row in session.scalars(query)
            ]


def record(session: Session, actor: str, action: Action, target: str, details: Mapping[str, Any]) -> None:
    """Add an entry in the transaction of the change itself; without an actor it is whom the work is done for."""
    entry = {"actor": actor or doer(), "action": action, "target": target, "details": dict(details)}
    session.execute(ADD, {**entry, "request_id": request_id.get()})
