"""Jobs as the API and `--json` show them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from graftwork.registry.jobs.jobs import Job, State
from graftwork.registry.registry import Registry

LEAST_PROGRESS = 0.01
LOG_LINES = 20


class JobRequest(BaseModel):
    """Work to queue."""

    kind: Literal["extract", "import", "gc"] = Field(description="what is to be done")
    payload: dict[str, Any] = Field(
        description="what the kind of job is told",
        examples=[{"model": "acme/support", "base": "acme/llama", "rank": 16, "name": "acme/support-lora"}],
    )
    priority: int = Field(default=0, ge=-100, le=100, description="higher ones run first")


class JobErrorOut(BaseModel):
    """Why a job, or its last attempt, failed."""

    code: str
    message: str


class JobOut(BaseModel):
    """Work that is waiting, running or done; `progress` goes from 0 to 1."""

    id: str
    kind: str
    state: str
    priority: int
    progress: float
    remaining_seconds: float | None = Field(description="an estimate from the progress so far, of a job that runs")
    attempt: int
    max_attempts: int
    cancel_requested: bool
    payload: dict[str, Any]
    result: dict[str, Any] | None
    error: JobErrorOut | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job, **more: Any) -> Self:
        """What there is to say about `job`; `more` are the members of a subclass."""
        error = None
        if job.error_code is not None:
            error = JobErrorOut(code=job.error_code, message=job.error_message or "")
        return cls(
            id=job.id,
            kind=job.kind,
            state=job.state,
            priority=job.priority,
            progress=job.progress,
            remaining_seconds=_remaining(job),
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            cancel_requested=job.cancel_requested,
            payload=dict(job.payload),
            result=None if job.result is None else dict(job.result),
            error=error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            **more,
        )


class JobDetail(JobOut):
    """A job with the end of its log."""

    log: list[str] = Field(description="its last lines, oldest first")

    @classmethod
    def read(cls, registry: Registry, job: Job) -> JobDetail:
        """Everything that `registry` knows about `job`."""
        return cls.of(job, log=registry.job_events.log(job.id, LOG_LINES))


def _remaining(job: Job) -> float | None:
    if job.state is not State.RUNNING or job.started_at is None or job.progress < LEAST_PROGRESS:
        return None
    elapsed = (datetime.now(UTC) - job.started_at).total_seconds()
    return max(0.0, elapsed * (1 - job.progress) / job.progress)
