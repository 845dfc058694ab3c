"""Jobs: work that survives its worker, held by lease and guarded by a fence.

A worker claims a job for `ttl` seconds and keeps it by heartbeats. When it falls silent the job goes to another one,
with a higher fence; whatever the first one still tries to write is refused with LeaseLost. Time is the database's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from graftwork.errors import InvalidRequest, JobNotFound, LeaseLost
from graftwork.registry.access.access import access, require, shown_job
from graftwork.registry.access.grants import EVERYWHERE, Scope
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.jobs.events import EventKind, record
from graftwork.registry.tables import JobRow

MAX_BACKOFF_SECONDS = 300.0


class State(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE = (State.QUEUED, State.RUNNING)
ENDED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when it was read. `progress` goes from 0 to 1."""

    id: str
    kind: str
    payload: Mapping[str, Any]
    key: str | None
    state: State
    priority: int
    attempt: int
    max_attempts: int
    progress: float
    cancel_requested: bool
    result: Mapping[str, Any] | None
    error_code: str | None
    error_message: str | None
    owner: str
    grants: Mapping[str, Any] | None
    """What whoever asked for it may do, and so the job; None for everything."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def from_row(cls, row: JobRow) -> Job:
        """The job that a row of the database describes."""
        return cls(
            id=row.id,
            kind=row.kind,
            payload=row.payload,
            key=row.key,
            state=State(row.state),
            priority=row.priority,
            attempt=row.attempt,
            max_attempts=row.max_attempts,
            progress=float(row.progress),
            cancel_requested=row.cancel_requested,
            result=row.result,
            error_code=row.error_code,
            error_message=row.error_message,
            owner=row.owner,
            grants=row.grants,
            created_at=moment(row.created_at),
            started_at=None if row.started_at is None else moment(row.started_at),
            finished_at=None if row.finished_at is None else moment(row.finished_at),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended that nobody has to carry out: with a result, or with the code and the message of an error."""

    state: State
    result: Mapping[str, Any] | None = None
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a job: good until `ttl` seconds pass without a heartbeat."""

    job: Job
    worker: str
    fence: int
    ttl: float


class Jobs:
    """The queue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enqueue(
        self,
        kind: str,
        payload: Mapping[str, Any],
        *,
        key: str | None = None,
        priority: int = 0,
        max_attempts: int = 3,
        owner: str = "",
        fired: tuple[int, float] | None = None,
        ended: Ended | None = None,
        session: Session | None = None,
    ) -> Job:
        """Add a job, or return the queued or running one that has the same `key`.

        `fired` is the schedule that makes the job and the time it is made for; there is one job for each. The job may
        do what whom this is done for may do now (see `registry.access`). With `ended` it is only recorded.
        """
        with self._database.write(session) as opened:
            self._database.exclude(opened)
            if key is not None:
                live = opened.scalar(select(JobRow).where(JobRow.key == key, JobRow.state.in_(LIVE)))
                if live is not None:
                    return Job.from_row(live)
            query = insert(JobRow).values(
                id=uuid.uuid4().hex,
                kind=kind,
                payload=dict(payload),
                key=key,
                priority=priority,
                state=State.QUEUED,
                run_at=clock(),
                attempt=0,
                max_attempts=max_attempts,
                fence=0,
                cancel_requested=False,
                progress=0.0,
                owner=owner,
                grants=access.get().as_json(),
                schedule_id=None if fired is None else fired[0],
                fire_at=None if fired is None else fired[1],
                created_at=clock(),
            )
            if ended is not None:
                code, message = ended.error or (None, None)
                outcome = {"result": ended.result, "error_code": code, "error_message": message}
                query = query.values(state=ended.state, finished_at=clock(), **outcome)
            row = opened.scalars(query.returning(JobRow)).one()
            _tell_state(opened, row)
            return Job.from_row(row)

    def claim(self, worker: str, kinds: Sequence[str], ttl: float) -> Claim | None:
        """Take the most urgent waiting job of one of `kinds` for `ttl` seconds; None when there is none.

        Jobs whose worker fell silent are put back first.
        """
        waiting = (
            select(JobRow.id)
            .where(JobRow.state == State.QUEUED, JobRow.kind.in_(kinds), JobRow.run_at <= clock(), _is_its_turn())
            .order_by(JobRow.priority.desc(), JobRow.run_at, JobRow.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        query = (
            update(JobRow)
            .where(JobRow.id == waiting.scalar_subquery(), JobRow.state == State.QUEUED)
            .values(
                state=State.RUNNING,
                lease_owner=worker,
                lease_expires_at=clock() + ttl,
                attempt=JobRow.attempt + 1,
                fence=JobRow.fence + 1,
                started_at=clock(),
                progress=0.0,
                error_code=None,
                error_message=None,
            )
            .returning(JobRow)
        )
        with self._database.write() as session:
            _reap(session)
            row = session.scalar(query.execution_options(synchronize_session=False))
            if row is None:
                return None
            _tell_state(session, row)
            return Claim(Job.from_row(row), worker, row.fence, ttl)

    def heartbeat(self, claim: Claim, progress: float) -> bool:
        """Keep the claim for another `ttl` seconds. Returns whether the job should be given up. Raises LeaseLost."""
        with self._database.write() as session:
            row = _held(session, claim, lease_expires_at=clock() + claim.ttl, progress=progress)
            return row.cancel_requested

    def finish(self, claim: Claim, result: Mapping[str, Any], session: Session | None = None) -> Job:
        """The job succeeded; with `session`, in the same transaction as what it made. Raises LeaseLost."""
        with self._database.write(session) as opened:
            row = _held(opened, claim, **_ended(State.SUCCEEDED), progress=1.0, result=dict(result))
            _tell_state(opened, row)
            return Job.from_row(row)

    def fail(self, claim: Claim, code: str, message: str, *, retry: bool) -> Job:
        """The attempt failed; with `retry` the job waits and runs again while it has attempts left. Raises LeaseLost.

        A job whose cancellation was asked for is cancelled instead.
        """
        delay = min(MAX_BACKOFF_SECONDS, 2.0**claim.job.attempt)
        with self._database.write() as session:
            row = _held(session, claim, error_code=code, error_message=message)
            if row.cancel_requested:
                values = _ended(State.CANCELLED)
            elif retry and row.attempt < row.max_attempts:
                values = _freed() | {"state": State.QUEUED, "run_at": clock() + delay}
            else:
                values = _ended(State.FAILED)
            row = _held(session, claim, **values)
            _tell_state(session, row)
            return Job.from_row(row)

    def release(self, claim: Claim) -> None:
        """Give the job back untouched, as a worker does that is told to stop. Raises LeaseLost."""
        with self._database.write() as session:
            row = _held(session, claim, **_freed(), state=State.QUEUED, attempt=JobRow.attempt - 1, progress=0.0)
            _tell_state(session, row)

    def reap(self) -> int:
        """Take the jobs whose lease ran out from their workers. Returns how many."""
        with self._database.write() as session:
            return _reap(session)

    def cancel(self, id: str, session: Session | None = None) -> Job:  # noqa: A002
        """Cancel a waiting job, ask the worker of a running one to stop, leave a finished one.

        Raises JobNotFound, Forbidden for a job of others.
        """
        values = {
            "cancel_requested": True,
            "finished_at": case((JobRow.state == State.QUEUED, clock()), else_=None),
            "state": case((JobRow.state == State.QUEUED, State.CANCELLED), else_=JobRow.state),
        }
        query = update(JobRow).where(JobRow.id == id, JobRow.state.in_(LIVE)).values(**values)
        with self._database.write(session) as opened:
            job = _get(opened, id)
            if job.owner != access.get().owner:
                require(Scope.ADMIN, EVERYWHERE)
            row = opened.scalar(query.returning(JobRow).execution_options(synchronize_session=False))
            if row is None:
                return _get(opened, id)
            _tell_state(opened, row)
            return Job.from_row(row)

    def get(self, id: str) -> Job:  # noqa: A002
        """One job. Raises JobNotFound."""
        with self._database.read() as session:
            return _get(session, id)

    def find(self, beginning: str) -> Job:
        """The job whose id begins so. Raises JobNotFound, InvalidRequest when several do."""
        begins = JobRow.id.startswith(beginning, autoescape=True)
        with self._database.read() as session:
            rows = session.scalars(select(JobRow).where(begins, shown_job()).limit(2)).all()
        if not rows or not beginning:
            raise JobNotFound(id=beginning)
        if len(rows) > 1:
            raise InvalidRequest(
                field="job", reason=f"several have an id that begins with {beginning!r}: give more of it"
            )
        return Job.from_row(rows[0])

    def counts(self) -> dict[tuple[str, str], int]:
        """How many jobs there are, by kind and state."""
        query = select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)
        with self._database.read() as session:
            return {(kind, state): count for kind, state, count in session.execute(query)}

    def list(
        self, state: State | None = None, limit: int = 100, *, kind: str | None = None, after: str | None = None
    ) -> list[Job]:
        """At most `limit` jobs, newest first, from the one that follows the job `after`. Raises JobNotFound for it.

        Jobs of others are left out unless one may read everywhere.
        """
        query = select(JobRow).where(shown_job()).order_by(JobRow.created_at.desc(), JobRow.id).limit(limit)
        if state is not None:
            query = query.where(JobRow.state == state)
        if kind is not None:
            query = query.where(JobRow.kind == kind)
        if after is not None:
            last = aliased(JobRow)
            made = select(last.created_at).where(last.id == after).scalar_subquery()
            query = query.where(or_(JobRow.created_at < made, and_(JobRow.created_at == made, JobRow.id > after)))
        with self._database.read() as session:
            if after is not None:
                _get(session, after)
            return [Job.from_row(row) for row in session.scalars(query)]


def _get(session: Session, job_id: str) -> Job:
    query = select(JobRow).where(JobRow.id == job_id, shown_job())
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise JobNotFound(id=job_id)
    return Job.from_row(row)


def _is_its_turn() -> ColumnElement[bool]:
    """The condition that no earlier job of the same schedule waits or runs."""
    earlier = aliased(JobRow)
    of_schedule = earlier.schedule_id == JobRow.schedule_id
    return ~exists().where(of_schedule, earlier.fire_at < JobRow.fire_at, earlier.state.in_(LIVE))


def _held(session: Session, claim: Claim, **values: Any) -> JobRow:
    """Write `values` if the claim still holds."""
    query = (
        update(JobRow)
        .where(JobRow.id == claim.job.id, JobRow.fence == claim.fence, JobRow.state == State.RUNNING)
        .values(**values)
        .returning(JobRow)
    )
    row = session.scalar(query.execution_options(synchronize_session=False, populate_existing=True))
    if row is None:
        raise LeaseLost(id=claim.job.id)
    return row


def _freed() -> dict[str, Any]:
    return {"lease_owner": None, "lease_expires_at": None}


def _ended(state: State) -> dict[str, Any]:
    return _freed() | {"state": state, "finished_at": clock()}


def _tell_state(session: Session, row: JobRow) -> None:
    """Note the state that `row` is in now among the job's events."""
    data: dict[str, Any] = {"state": row.state, "attempt": row.attempt}
    if row.state == State.RUNNING and row.cancel_requested:
        data["cancel_requested"] = True
    if row.state != State.SUCCEEDED and row.error_code is not None:
        data["error"] = {"code": row.error_code, "message": row.error_message}
    record(session, row.id, EventKind.STATE, data)


def _reap(session: Session) -> int:
    cancelled = JobRow.cancel_requested
    spent = JobRow.attempt >= JobRow.max_attempts
    query = (
        update(JobRow)
        .where(JobRow.state == State.RUNNING, JobRow.lease_expires_at < clock())
        .values(
            **_freed(),
            state=case((cancelled, State.CANCELLED), (spent, State.FAILED), else_=State.QUEUED),
            finished_at=case((cancelled | spent, clock()), else_=None),
            run_at=clock(),
            error_code=LeaseLost.code,
            error_message="the worker fell silent",
        )
        .returning(JobRow)
    )
    rows = session.scalars(query.execution_options(synchronize_session=False)).all()
    for row in rows:
        _tell_state(session, row)
    return len(rows)
