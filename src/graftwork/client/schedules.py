"""Calls about schedules: jobs that are made again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.schedules import ScheduleOut
from graftwork.client.call import Call, call, silent


def create(
    name: str,
    cron: str,
    kind: str,
    payload: Mapping[str, Any],
    *,
    time_zone: str = "UTC",
    catch_up: str = "one",
    overlap: str = "skip",
    priority: int = 0,
) -> Call[ScheduleOut]:
    """Add the schedule `ns/name`, which makes jobs of `kind` at the times of `cron`, told `payload`.

    catch_up: how many of the times that were missed get their job: none, one or all
    overlap:  while an earlier job has not ended: skip, queue or cancel
    """
    body = _body(cron, kind, payload, time_zone, catch_up, overlap, priority)
    return call("POST", "/schedules", ScheduleOut, json={"name": name, **body})


def change(
    name: str,
    cron: str,
    kind: str,
    payload: Mapping[str, Any],
    *,
    time_zone: str = "UTC",
    catch_up: str = "one",
    overlap: str = "skip",
    priority: int = 0,
) -> Call[ScheduleOut]:
    """Put all this in the place of what the schedule `ns/name` was; see `create`. The jobs that it made stay."""
    body = _body(cron, kind, payload, time_zone, catch_up, overlap, priority)
    return call("PUT", f"/schedules/{name}", ScheduleOut, json=body)


def listing(*, limit: int = 100) -> Call[list[ScheduleOut]]:
    """Schedules in the order of their names; a client's `pages` goes through all of them."""
    return call("GET", "/schedules", list[ScheduleOut], query={"limit": limit})


def get(name: str) -> Call[ScheduleOut]:
    """One schedule, `ns/name`."""
    return call("GET", f"/schedules/{name}", ScheduleOut)


def jobs(name: str, *, limit: int = 20) -> Call[list[JobOut]]:
    """The last jobs that a schedule made, newest first."""
    return call("GET", f"/schedules/{name}/jobs", list[JobOut], query={"limit": limit})


def run(name: str) -> Call[JobOut]:
    """Make a job now."""
    return call("POST", f"/schedules/{name}/run", JobOut)


def pause(name: str) -> Call[ScheduleOut]:
    """Make no more jobs."""
    return call("POST", f"/schedules/{name}/pause", ScheduleOut)


def resume(name: str) -> Call[ScheduleOut]:
    """Go on with the next time from now."""
    return call("POST", f"/schedules/{name}/resume", ScheduleOut)


def remove(name: str) -> Call[None]:
    """Remove a schedule; the jobs that it made stay."""
    return silent("DELETE", f"/schedules/{name}")


def _body(
    cron: str, kind: str, payload: Mapping[str, Any], time_zone: str, catch_up: str, overlap: str, priority: int
) -> dict[str, Any]:
    return {
        "cron": cron,
        "kind": kind,
        "payload": dict(payload),
        "time_zone": time_zone,
        "catch_up": catch_up,
        "overlap": overlap,
        "priority": priority,
    }
