"""Schedules: jobs that are made again and again, at the times of a cron expression.

`next_at` moves by compare-and-set in the transaction that makes the jobs, so of any number of processes that look at
the same time one makes them, and a process that dies makes them all or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, String, delete, func, select, true, update
from sqlalchemy.orm import Session

from graftwork.errors import ScheduleExists, ScheduleNotFound
from graftwork.registry.access.access import Access, access, require
from graftwork.registry.access.audit import Action, record
from graftwork.registry.access.grants import EVERYWHERE, Scope
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.jobs.cron import Cron
from graftwork.registry.jobs.jobs import LIVE, Ended, Job, Jobs, State
from graftwork.registry.refs import Name
from graftwork.registry.tables import JobRow, ScheduleRow

KEY = func.lower(ScheduleRow.name, type_=String)


class CatchUp(StrEnum):
    """What becomes of times that came while nobody looked."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class Overlap(StrEnum):
    """What becomes of a time that comes while an earlier job of the schedule waits or runs."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Jobs of a kind at the times of a cron expression. `payload` is the template of their payloads."""

    cron: Cron
    kind: str
    payload: Mapping[str, Any]
    catch_up: CatchUp = CatchUp.ONE
    overlap: Overlap = Overlap.SKIP
    priority: int = 0

    def columns(self) -> dict[str, Any]:
        """The columns of `ScheduleRow` that keep it."""
        return {
            "cron": self.cron.expression,
            "time_zone": self.cron.time_zone,
            "kind": self.kind,
            "payload": dict(self.payload),
            "catch_up": self.catch_up,
            "overlap": self.overlap,
            "priority": self.priority,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Recurrence):
    """A schedule as it was when it was read."""

    id: int
    name: Name
    enabled: bool
    access: Access
    """Who made it, and what they might do then: its jobs may do the same."""
    next_at: datetime
    created_at: datetime

    @classmethod
    def from_row(cls, row: ScheduleRow) -> Schedule:
        """The schedule that a row of the database describes."""
        return cls(
            id=row.id,
            name=Name.parse(row.name),
            cron=Cron(row.cron, row.time_zone),
            kind=row.kind,
            payload=row.payload,
            enabled=row.enabled,
            catch_up=CatchUp(row.catch_up),
            overlap=Overlap(row.overlap),
            priority=row.priority,
            access=Access.of(row.owner, row.grants),
            next_at=moment(row.next_at),
            created_at=moment(row.created_at),
        )


@dataclass(frozen=True, slots=True)
class Firing:
    """A time that came, and what is to be done; `ended` when that is nothing, and why."""

    at: datetime
    payload: Mapping[str, Any]
    ended: Ended | None = None


class Schedules:
    """All schedules."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    def now(self) -> datetime:
        """The time on the database's clock."""
        with self._database.read() as session:
            return moment(session.execute(select(clock())).scalar_one())

    def create(self, name: Name, recurrence: Recurrence, *, now: datetime, enabled: bool = True) -> Schedule:
        """Add a schedule; its first time is the first after `now`. Its jobs may do what its maker may do now.

        Raises ScheduleExists, and Forbidden outside of the namespaces that may be written in.
        """
        require(Scope.WRITE, name.namespace)
        maker = access.get()
        with self._database.write() as session:
            self._database.exclude(session)
            if session.scalar(_named(name)) is not None:
                raise ScheduleExists(name=name)
            row = ScheduleRow(
                name=str(name),
                enabled=enabled,
                owner=maker.owner,
                grants=maker.as_json(),
                next_at=recurrence.cron.after(now).timestamp(),
                created_at=clock(),
                **recurrence.columns(),
            )
            session.add(row)
            session.flush()
            session.refresh(row)
            record(session, maker.owner, "schedule.create", str(name), _told(recurrence))
            return Schedule.from_row(row)

    def change(self, name: Name, recurrence: Recurrence, *, now: datetime) -> Schedule:
        """Put another schedule in the place of one; its jobs stay. They may do what whoever changes it may do now.

        Its next time is the first after `now`. Raises ScheduleNotFound, Forbidden.
        """
        maker = access.get()
        return self._set(
            name,
            "schedule.change",
            _told(recurrence),
            owner=maker.owner,
            grants=maker.as_json(),
            next_at=recurrence.cron.after(now).timestamp(),
            **recurrence.columns(),
        )

    def get(self, name: Name) -> Schedule:
        """One schedule. Raises ScheduleNotFound."""
        with self._database.read() as session:
            return Schedule.from_row(_get(session, name))

    def writable(self, name: Name) -> Schedule:
        """One schedule, of which jobs may be made. Raises ScheduleNotFound, Forbidden."""
        schedule = self.get(name)
        require(Scope.WRITE, name.namespace)
        return schedule

    def list(self, limit: int = 100, after: str | None = None) -> list[Schedule]:
        """At most `limit` schedules in the order of their names, from the one that follows the name `after`.

        Those of others are left out unless one may read everywhere.
        """
        query = select(ScheduleRow).where(_shown()).order_by(KEY).limit(limit)
        if after is not None:
            query = query.where(after.lower() < KEY)
        with self._database.read() as session:
            return [Schedule.from_row(row) for row in session.scalars(query)]

    def jobs(self, name: Name, limit: int = 20) -> Sequence[Job]:
        """The last jobs that a schedule made, newest first. Raises ScheduleNotFound."""
        with self._database.read() as session:
            query = select(JobRow).where(JobRow.schedule_id == _get(session, name).id)
            return [Job.from_row(row) for row in session.scalars(query.order_by(JobRow.fire_at.desc()).limit(limit))]

    def pause(self, name: Name) -> Schedule:
        """Make no more jobs until `resume`. Raises ScheduleNotFound, Forbidden."""
        return self._set(name, "schedule.pause", {}, enabled=False)

    def resume(self, name: Name, *, now: datetime) -> Schedule:
        """Go on with the first time after `now`; those that came during the pause do not count as missed.

        Raises ScheduleNotFound, Forbidden.
        """
        schedule = self.get(name)
        if schedule.enabled:
            return schedule
        return self._set(name, "schedule.resume", {}, enabled=True, next_at=schedule.cron.after(now).timestamp())

    def remove(self, name: Name) -> None:
        """Delete a schedule; the jobs that it made stay. Raises ScheduleNotFound, Forbidden."""
        require(Scope.WRITE, name.namespace)
        with self._database.write() as session:
            row = _get(session, name)
            session.execute(update(JobRow).where(JobRow.schedule_id == row.id).values(schedule_id=None))
            session.execute(delete(ScheduleRow).where(ScheduleRow.id == row.id))
            record(session, access.get().owner, "schedule.remove", str(name), {})

    def due(self, now: datetime) -> Sequence[Schedule]:
        """The schedules whose time has come."""
        query = select(ScheduleRow).where(ScheduleRow.enabled, ScheduleRow.next_at <= now.timestamp())
        with self._database.read() as session:
            return [Schedule.from_row(row) for row in session.scalars(query.order_by(ScheduleRow.next_at))]

    def fire(self, schedule: Schedule, firings: Sequence[Firing], following: datetime | None) -> Sequence[Job]:
        """Make the jobs of times that came, and go on to the time `following`; None leaves the next time as it is.

        To be called on behalf of the schedule's maker. Nothing is made when another process was first, or when the
        schedule was paused or removed. A time that has its job already does not get a second one.
        """
        with self._database.write() as session:
            self._database.exclude(session)
            if following is not None and not _advance(session, schedule, following):
                return []
            row = session.get(ScheduleRow, schedule.id)
            return [] if row is None else [self._make(session, schedule, firing) for firing in firings]

    def _make(self, session: Session, schedule: Schedule, firing: Firing) -> Job:
        of_schedule = JobRow.schedule_id == schedule.id
        made = session.scalar(select(JobRow).where(of_schedule, JobRow.fire_at == firing.at.timestamp()))
        if made is not None:
            return Job.from_row(made)
        ended = firing.ended
        earlier = session.scalars(select(JobRow).where(of_schedule, JobRow.state.in_(LIVE))).all()
        if ended is None and earlier and schedule.overlap is Overlap.SKIP:
            reason = f"the job {earlier[0].id} of the same schedule has not ended"
            ended = Ended(State.SUCCEEDED, result={"skipped": reason})
        elif ended is None and schedule.overlap is Overlap.CANCEL:
            for job in earlier:
                self._jobs.cancel(job.id, session)
        return self._jobs.enqueue(
            schedule.kind,
            firing.payload,
            priority=schedule.priority,
            owner=schedule.access.owner,
            fired=(schedule.id, firing.at.timestamp()),
            ended=ended,
            session=session,
        )

    def _set(self, name: Name, action: Action, details: Mapping[str, Any], **values: Any) -> Schedule:
        require(Scope.WRITE, name.namespace)
        with self._database.write() as session:
            row = _get(session, name)
            session.execute(update(ScheduleRow).where(ScheduleRow.id == row.id).values(**values))
            session.refresh(row)
            record(session, access.get().owner, action, str(name), details)
            return Schedule.from_row(row)


def _told(recurrence: Recurrence) -> dict[str, str]:
    """What the audit log says of it."""
    return {"cron": recurrence.cron.expression, "kind": recurrence.kind}


def _advance(session: Session, schedule: Schedule, following: datetime) -> bool:
    query = (
        update(ScheduleRow)
        .where(
            ScheduleRow.id == schedule.id,
            ScheduleRow.enabled,
            ScheduleRow.next_at == schedule.next_at.timestamp(),
        )
        .values(next_at=following.timestamp())
        .returning(ScheduleRow.id)
    )
    return session.scalar(query) is not None


def _shown() -> ColumnElement[bool]:
    somebody = access.get()
    return true() if somebody.grants.allow(Scope.READ, EVERYWHERE) else ScheduleRow.owner == somebody.owner


def _named(name: Name) -> Select[ScheduleRow]:
    return select(ScheduleRow).where(KEY.in_([name.key]))


def _get(session: Session, name: Name) -> ScheduleRow:
    row = session.scalar(_named(name).where(_shown()))
    if row is None:
        raise ScheduleNotFound(name=name)
    return row
