"""The clock of the schedules: makes their jobs when their times come. Any number of processes may run it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy.exc import DBAPIError

from graftwork.errors import DatabaseUnavailable, GraftworkError
from graftwork.merge.jobs.kind import kind_named
from graftwork.merge.jobs.submit import require_target
from graftwork.registry.access.access import acting_for
from graftwork.registry.jobs.jobs import Ended, Job, State
from graftwork.registry.jobs.schedules import CatchUp, Firing, Recurrence, Schedule
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

POLL_SECONDS = 1.0
ON_TIME = timedelta(minutes=1)
"""A time that came longer ago was missed."""
MOST_CAUGHT_UP = 100
"""Jobs that one look makes for a schedule, the last ones."""

logger = logging.getLogger(__name__)


def run_schedules(
    registry: Registry,
    stop: threading.Event,
    *,
    now: Callable[[], datetime] | None = None,
    seconds: float = POLL_SECONDS,
) -> None:
    """Make the jobs of all schedules until `stop` is set; the clock is the database's unless `now` is given.

    Neither a database that cannot be reached for a while nor a schedule that cannot be read ends it.
    """
    told = now or registry.schedules.now
    while not stop.is_set():
        try:
            fire_due(registry, told())
        except DatabaseUnavailable:  # the database said so, once
            pass
        except (DBAPIError, GraftworkError):
            logger.exception("the schedules cannot be read; trying again")
        stop.wait(seconds)


def fire_due(registry: Registry, now: datetime) -> list[Job]:
    """Make the jobs of every schedule whose time has come."""
    made: list[Job] = []
    for schedule in registry.schedules.due(now):
        with acting_for(schedule.access):
            firings = [_firing(registry, schedule, at) for at in _times(schedule, now)]
            made += registry.schedules.fire(schedule, firings, schedule.cron.after(now))
    return made


def fire_now(registry: Registry, name: Name, now: datetime) -> Job:
    """Make a job of a schedule whose time has not come, also of a paused one. Raises ScheduleNotFound, Forbidden."""
    schedule = registry.schedules.writable(name)
    with acting_for(schedule.access):
        return registry.schedules.fire(schedule, [_firing(registry, schedule, now)], None)[0]


def add_schedule(
    registry: Registry,
    settings: Settings,
    name: Name,
    recurrence: Recurrence,
    *,
    now: datetime | None = None,
    enabled: bool = True,
) -> Schedule:
    """Add a schedule of such jobs. Raises what is wrong with it as it is now, and ScheduleExists.

    What its references mean is found out again whenever its time comes.
    """
    checked = _checked(registry, settings, recurrence)
    return registry.schedules.create(name, checked, now=now or registry.schedules.now(), enabled=enabled)


def change_schedule(registry: Registry, settings: Settings, name: Name, recurrence: Recurrence) -> Schedule:
    """Put all this in the place of what a schedule was; its jobs stay with it, and it is paused if it was.

    From then on it acts for whoever changed it. Raises what `add_schedule` does, and ScheduleNotFound.
    """
    registry.schedules.writable(name)
    checked = _checked(registry, settings, recurrence)
    return registry.schedules.change(name, checked, now=registry.schedules.now())


def note_on(registry: Registry, schedule: Schedule) -> str | None:
    """What to know of a schedule that is not wrong, and yet would fail now."""
    kind = kind_named(schedule.kind)
    return None if kind.note is None else kind.note(registry, kind.parse_template(schedule.payload))


def _checked(registry: Registry, settings: Settings, recurrence: Recurrence) -> Recurrence:
    """The same with the payload as it is kept."""
    kind = kind_named(recurrence.kind)
    template = kind.parse_template(recurrence.payload)
    require_target(template)
    if kind.check is not None:
        kind.check(registry, settings, template)
    return replace(recurrence, payload=template.model_dump(mode="json", by_alias=True, exclude_unset=True))


def _times(schedule: Schedule, now: datetime) -> Sequence[datetime]:
    """The times that came and get a job."""
    most = MOST_CAUGHT_UP if schedule.catch_up is CatchUp.ALL else 1
    times = schedule.cron.latest(schedule.next_at, now, most)
    if schedule.catch_up is CatchUp.NONE:
        return [at for at in times if now - at <= ON_TIME]
    return times


def _firing(registry: Registry, schedule: Schedule, at: datetime) -> Firing:
    """The job of a time; a failure to make it is a job that failed."""
    try:
        kind = kind_named(schedule.kind)
        if kind.fire is None:
            return Firing(at, schedule.payload)
        fired = kind.fire(registry, kind.parse_template(schedule.payload))
    except GraftworkError as error:
        return Firing(at, schedule.payload, Ended(State.FAILED, error=(error.code, str(error))))
    skipped = fired.skipped
    ended = None if skipped is None else Ended(State.SUCCEEDED, result={"skipped": skipped})
    return Firing(at, fired.payload, ended)
