"""`/api/v1/jobs`: work that goes on after its request was answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.pages import PagesDep
from graftwork.api.dependencies.services import RegistryDep
from graftwork.api.schemas.jobs import JobDetail, JobOut, JobRequest
from graftwork.api.streams.jobs import job_stream
from graftwork.errors import InvalidRequest
from graftwork.merge.jobs.submit import submit
from graftwork.registry.jobs.jobs import Job, State

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("")
def list_jobs(
    pages: PagesDep,
    registry: RegistryDep,
    state: State | None = None,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=32, description="the id of the last job of the page before")] = None,
) -> list[JobOut]:
    """Jobs, newest first; `Link: rel="next"` leads to the next page."""
    found = registry.jobs.list(state=state, limit=limit + 1, kind=kind, after=after)
    return [JobOut.of(job) for job in pages.page(found, limit, lambda job: job.id)]


@router.post("", status_code=202)
def submit_job(body: JobRequest, response: Response, registry: RegistryDep, principal: PrincipalDep) -> JobOut:
    """Queue an extraction, an import from the Hub, or garbage collection; merges have a route of their own."""
    return accepted(submit(registry, body.kind, body.payload, priority=body.priority, owner=principal.owner), response)


@router.get("/{job_id}")
def get_job(job_id: str, registry: RegistryDep) -> JobDetail:
    """The job whose id this is, or begins so, with the end of its log."""
    return JobDetail.read(registry, registry.jobs.find(job_id))


@router.get("/{job_id}/events", response_class=StreamingResponse)
def watch_job(
    job_id: str, registry: RegistryDep, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """The job's states, progress and log as server-sent events, from the one after Last-Event-ID to its end."""
    registry.jobs.get(job_id)
    if last_event_id is not None and not (last_event_id.isdecimal() and len(last_event_id) < 19):
        raise InvalidRequest(field="Last-Event-ID", reason=f"{last_event_id!r} is not the id of an event, a number")
    events = job_stream(registry, job_id, int(last_event_id or 0))
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.delete("/{job_id}")
def cancel_job(job_id: str, registry: RegistryDep) -> JobOut:
    """Cancel a waiting job at once, ask a running one to stop, leave a finished one as it is."""
    return JobOut.of(registry.jobs.cancel(job_id))


def accepted(job: Job, response: Response) -> JobOut:
    """The answer to a request that queued `job`."""
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return JobOut.of(job)
