"""What is to be done: jobs, what happened to them, and the schedules that make them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, Double, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from graftwork.registry.tables.table import Key, Table

QUEUED = text("state = 'queued'")
RUNNING = text("state = 'running'")
LIVE = text("state IN ('queued', 'running')")


class ScheduleRow(Table):
    """A job to enqueue again and again; `next_at` moves by compare-and-set, so one process wins a tick.

    `catch_up` says what becomes of the times that were missed, `overlap` what when the job before still runs.
    """

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(193), unique=True)
    cron: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]]
    enabled: Mapped[bool] = mapped_column(Boolean)
    time_zone: Mapped[str] = mapped_column(String(64), server_default="UTC")
    catch_up: Mapped[str] = mapped_column(String(16), server_default="one")
    overlap: Mapped[str] = mapped_column(String(16), server_default="skip")
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    owner: Mapped[str] = mapped_column(String(96), server_default="")
    grants: Mapped[dict[str, Any] | None]
    next_at: Mapped[float]
    created_at: Mapped[float]


class JobRow(Table):
    """Work held by lease. `fence` grows with every claim, so that a worker that lost its lease cannot write.

    `grants` are those of whoever asked for it; null where nobody was asked for a token.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("schedule_id", "fire_at"),
        Index("ix_jobs_queued", "priority", "run_at", "id", sqlite_where=QUEUED, postgresql_where=QUEUED),
        Index("ix_jobs_running", "lease_expires_at", sqlite_where=RUNNING, postgresql_where=RUNNING),
        Index("ix_jobs_live_key", "key", unique=True, sqlite_where=LIVE, postgresql_where=LIVE),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]]
    key: Mapped[str | None] = mapped_column(String(128))
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    run_at: Mapped[float]
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[float | None]
    fence: Mapped[int]
    cancel_requested: Mapped[bool] = mapped_column(Boolean)
    progress: Mapped[float]
    owner: Mapped[str] = mapped_column(String(96), server_default="")
    grants: Mapped[dict[str, Any] | None]
    started_at: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    schedule_id: Mapped[int | None] = mapped_column(ForeignKey("schedules.id"))
    fire_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(Double, index=True)
    finished_at: Mapped[float | None]


class JobEventRow(Table):
    """A line of a job's history: a change of state, a step of progress, or a line of its log."""

    __tablename__ = "job_events"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]]
    happened_at: Mapped[float]
