"""`/api/v1/schedules`: jobs that are made again and again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from graftwork.api.dependencies.pages import PagesDep
from graftwork.api.dependencies.services import NameDep, RegistryDep, SettingsDep
from graftwork.api.routes.jobs import accepted
from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.schedules import ScheduleChange, ScheduleOut, ScheduleRequest
from graftwork.merge.jobs import scheduler
from graftwork.registry.refs import Name

router = APIRouter(prefix="/schedules", tags=["schedules"])


@router.post("", status_code=201)
def create_schedule(
    body: ScheduleRequest, response: Response, registry: RegistryDep, settings: SettingsDep
) -> ScheduleOut:
    """Add a schedule. What is wrong with it now is refused; references are resolved again whenever its time comes.

    Its jobs may do what its maker may do now.
    """
    name = Name.parse(body.name)
    schedule = scheduler.add_schedule(registry, settings, name, body.recurrence, enabled=body.enabled)
    response.headers["Location"] = f"/api/v1/schedules/{schedule.name}"
    return ScheduleOut.of(schedule, scheduler.note_on(registry, schedule))


@router.get("")
def list_schedules(
    pages: PagesDep,
    registry: RegistryDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=193, description="the name after which to go on")] = None,
) -> list[ScheduleOut]:
    """Schedules in the order of their names; `Link: rel="next"` leads to the rest."""
    found = registry.schedules.list(limit + 1, after)
    return [ScheduleOut.of(schedule) for schedule in pages.page(found, limit, lambda schedule: schedule.name)]


@router.get("/{namespace}/{name}")
def get_schedule(name: NameDep, registry: RegistryDep) -> ScheduleOut:
    """One schedule."""
    return ScheduleOut.of(registry.schedules.get(name))


@router.put("/{namespace}/{name}")
def change_schedule(name: NameDep, body: ScheduleChange, registry: RegistryDep, settings: SettingsDep) -> ScheduleOut:
    """Put another schedule in the place of one, which keeps its jobs, and is paused if it was.

    From then on its jobs may do what whoever changed it may do now.
    """
    schedule = scheduler.change_schedule(registry, settings, name, body.recurrence)
    return ScheduleOut.of(schedule, scheduler.note_on(registry, schedule))


@router.get("/{namespace}/{name}/jobs")
def list_schedule_jobs(
    name: NameDep, registry: RegistryDep, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> list[JobOut]:
    """The last jobs that a schedule made, newest first."""
    return [JobOut.of(job) for job in registry.schedules.jobs(name, limit)]


@router.post("/{namespace}/{name}/run", status_code=202)
def run_schedule(name: NameDep, response: Response, registry: RegistryDep) -> JobOut:
    """Make a job now, whenever its time comes next and whether it is paused or not."""
    return accepted(scheduler.fire_now(registry, name, registry.schedules.now()), response)


@router.post("/{namespace}/{name}/pause")
def pause_schedule(name: NameDep, registry: RegistryDep) -> ScheduleOut:
    """Make no more jobs."""
    return ScheduleOut.of(registry.schedules.pause(name))


@router.post("/{namespace}/{name}/resume")
def resume_schedule(name: NameDep, registry: RegistryDep) -> ScheduleOut:
    """Go on with the next time from now; those that came during the pause were not missed."""
    return ScheduleOut.of(registry.schedules.resume(name, now=registry.schedules.now()))


@router.delete("/{namespace}/{name}", status_code=204)
def delete_schedule(name: NameDep, registry: RegistryDep) -> None:
    """Remove a schedule; the jobs that it made stay."""
    registry.schedules.remove(name)
