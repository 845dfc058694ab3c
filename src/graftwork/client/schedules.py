"""Calls about schedules: jobs that are made again and again."""

from __future__ import annotations

from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.schedules import ScheduleChange, ScheduleOut
from graftwork.client.call import Call, call, silent
from graftwork.registry.refs import Name


def create(name: str, schedule: ScheduleChange) -> Call[ScheduleOut]:
    """Add the schedule `ns/name`."""
    return call("POST", "/schedules", ScheduleOut, json={"name": name, **schedule.model_dump(mode="json")})


def change(name: str, schedule: ScheduleChange) -> Call[ScheduleOut]:
    """Put this in the place of what the schedule `ns/name` was. The jobs that it made stay."""
    return call("PUT", _path(name), ScheduleOut, json=schedule.model_dump(mode="json"))


def listing(*, limit: int = 100) -> Call[list[ScheduleOut]]:
    """Schedules in the order of their names; a client's `pages` goes through all of them."""
    return call("GET", "/schedules", list[ScheduleOut], query={"limit": limit})


def get(name: str) -> Call[ScheduleOut]:
    """One schedule, `ns/name`."""
    return call("GET", _path(name), ScheduleOut)


def jobs(name: str, *, limit: int = 20) -> Call[list[JobOut]]:
    """The last jobs that a schedule made, newest first."""
    return call("GET", _path(name, "/jobs"), list[JobOut], query={"limit": limit})


def run(name: str) -> Call[JobOut]:
    """Make a job now."""
    return call("POST", _path(name, "/run"), JobOut)


def pause(name: str) -> Call[ScheduleOut]:
    """Make no more jobs."""
    return call("POST", _path(name, "/pause"), ScheduleOut)


def resume(name: str) -> Call[ScheduleOut]:
    """Go on with the next time from now."""
    return call("POST", _path(name, "/resume"), ScheduleOut)


def remove(name: str) -> Call[None]:
    """Remove a schedule; the jobs that it made stay."""
    return silent("DELETE", _path(name))


def _path(name: str, rest: str = "") -> str:
    return f"/schedules/{Name.parse(name)}{rest}"
