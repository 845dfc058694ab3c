"""What happened to a job, in order: changes of its state, progress, and lines of its log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from graftwork.registry.db import Database, clock, moment
from graftwork.registry.tables import JobEventRow


class EventKind(StrEnum):
    """What an event tells."""

    STATE = "state"
    PROGRESS = "progress"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One event; `id` grows, over all jobs."""

    id: int
    job: str
    kind: EventKind
    data: Mapping[str, Any]
    happened_at: datetime


class JobEvents:
    """The events of all jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, job: str, kind: EventKind, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add events of one kind, in order."""
        if rows:
            with self._database.write() as session:
                for data in rows:
                    record(session, job, kind, data)

    def log(self, job: str, limit: int) -> list[str]:
        """The last `limit` lines of a job's log, oldest first."""
        lines = select(JobEventRow.data).where(JobEventRow.job_id == job, JobEventRow.kind == EventKind.LOG)
        with self._database.read() as session:
            rows = session.scalars(lines.order_by(JobEventRow.id.desc()).limit(limit)).all()
        return [str(data["text"]) for data in reversed(rows)]

    def after(self, job: str, position: int = 0, limit: int = 1000) -> list[JobEvent]:
        """At most `limit` events of a job whose id is above `position`, oldest first."""
        query = (
            select(JobEventRow)
            .where(JobEventRow.job_id == job, JobEventRow.id > position)
            .order_by(JobEventRow.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return [
                JobEvent(row.id, row.job_id, EventKind(row.kind), row.data, moment(row.happened_at))
                for row in session.scalars(query)
            ]


def record(session: Session, job: str, kind: EventKind, data: Mapping[str, Any]) -> None:
    """Add one event in the transaction of `session`."""
    session.execute(insert(JobEventRow).values(job_id=job, kind=kind, data=dict(data), happened_at=clock()))
