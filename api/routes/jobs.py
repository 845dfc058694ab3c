"""`/api/v1/jobs`: work that goes on after its request was answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.deps import RegistryDep
from graftwork.api.schemas.jobs import JobOut
from graftwork.registry.jobs import State

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("")
def list_jobs(
    registry: RegistryDep, state: State | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[JobOut]:
    """Jobs, newest first."""
    return [JobOut.of(job) for job in registry.jobs.list(state=state, limit=limit)]


@router.get("/{job_id}")
def get_job(job_id: str, registry: RegistryDep) -> JobOut:
    """One job."""
    return JobOut.of(registry.jobs.get(job_id))


@router.delete("/{job_id}")
def cancel_job(job_id: str, registry: RegistryDep) -> JobOut:
    """Cancel a waiting job at once, ask a running one to stop, leave a finished one as it is."""
    return JobOut.of(registry.jobs.cancel(job_id))
