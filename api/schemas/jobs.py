"""Jobs as the API and `--json` show them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from graftwork.registry.jobs import Job


class JobErrorOut(BaseModel):
    """Why a job, or its last attempt, failed."""

    code: str
    message: str


class JobOut(BaseModel):
    """Work that is waiting, running or done; `progress` goes from 0 to 1."""

    id: str
    kind: str
    state: str
    progress: float
    attempt: int
    max_attempts: int
    cancel_requested: bool
    payload: dict[str, Any]
    result: dict[str, Any] | None
    error: JobErrorOut | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobOut:
        """What there is to say about `job`."""
        error = None
        if job.error_code is not None:
            error = JobErrorOut(code=job.error_code, message=job.error_message or "")
        return cls(
            id=job.id,
            kind=job.kind,
            state=job.state,
            progress=job.progress,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            cancel_requested=job.cancel_requested,
            payload=dict(job.payload),
            result=None if job.result is None else dict(job.result),
            error=error,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )
