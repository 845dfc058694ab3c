"""Schedules on both databases: who wins a tick, what becomes of missed times, and of jobs that overlap."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from graftwork.errors import InvalidRequest, ScheduleExists, ScheduleNotFound
from graftwork.merge.jobs.scheduler import MOST_CAUGHT_UP, add_schedule, fire_due, fire_now, run_schedules
from graftwork.registry.jobs.cron import Cron
from graftwork.registry.jobs.jobs import Job, State
from graftwork.registry.jobs.schedules import CatchUp, Overlap, Recurrence, Schedule
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

NAME = Name.parse("acme/hourly")
NOON = datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAYLOAD = {"source": "hf:acme/llama", "name": "acme/llama"}


def hourly(registry: Registry, name: Name = NAME, *, enabled: bool = True, **more: Any) -> Schedule:
    return add_schedule(registry, Settings(), name, imports(**more), now=NOON, enabled=enabled)


def imports(payload: Mapping[str, Any] = PAYLOAD, **more: Any) -> Recurrence:
    return Recurrence(Cron("0 * * * *"), "import", payload, **more)


def end(registry: Registry) -> str:
    """Carry out the next job. Returns its id."""
    claim = registry.jobs.claim("w", ["import"], 30)
    assert claim is not None
    registry.jobs.finish(claim, {})
    return claim.job.id


def skipped(job: Job) -> bool:
    return job.state is State.SUCCEEDED and "skipped" in (job.result or {})


def test_a_time_makes_one_job_however_many_processes_look(registry: Registry) -> None:
    hourly(registry)
    assert fire_due(registry, NOON) == []
    now = NOON + HOUR
    made: list[Job] = []
    gate = threading.Barrier(4)

    def look() -> None:
        gate.wait()
        made.extend(fire_due(registry, now))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (job,) = made
    assert (job.kind, job.state, dict(job.payload)) == ("import", State.QUEUED, PAYLOAD)
    assert registry.schedules.get(NAME).next_at == datetime(2026, 6, 1, 14, tzinfo=UTC)
    assert [one.id for one in registry.schedules.jobs(NAME)] == [job.id]


@pytest.mark.parametrize(
    ("catch_up", "late", "count"),
    [
        (CatchUp.NONE, timedelta(seconds=30), 1),
        (CatchUp.NONE, timedelta(minutes=5), 0),
        (CatchUp.ONE, timedelta(minutes=5), 1),
        (CatchUp.ALL, timedelta(minutes=5), 6),
    ],
)
def test_times_that_were_missed(registry: Registry, catch_up: CatchUp, late: timedelta, count: int) -> None:
    hourly(registry, catch_up=catch_up, overlap=Overlap.QUEUE)
    made = fire_due(registry, datetime(2026, 6, 1, 18, tzinfo=UTC) + late)
    assert len(made) == count
    assert registry.schedules.get(NAME).next_at == datetime(2026, 6, 1, 19, tzinfo=UTC)


def test_of_very_many_missed_times_the_last_are_caught_up_with(registry: Registry) -> None:
    hourly(registry, catch_up=CatchUp.ALL, overlap=Overlap.QUEUE)
    made = fire_due(registry, NOON + timedelta(days=400))
    assert len(made) == MOST_CAUGHT_UP
    assert end(registry) == made[0].id


def test_an_overlapping_time_is_skipped_queued_or_cancels_the_job_before(registry: Registry) -> None:
    names = {overlap: Name("acme", overlap.value) for overlap in Overlap}
    for overlap, name in names.items():
        hourly(registry, name, overlap=overlap)
    first = dict(zip(Overlap, fire_due(registry, NOON + HOUR), strict=True))
    running = {}
    for _ in Overlap:
        claim = registry.jobs.claim("w", ["import"], 30)
        assert claim is not None
        running[claim.job.id] = claim
    second = dict(zip(Overlap, fire_due(registry, NOON + 2 * HOUR), strict=True))
    assert skipped(second[Overlap.SKIP])
    assert first[Overlap.SKIP].id in str(second[Overlap.SKIP].result)
    assert registry.jobs.get(first[Overlap.CANCEL].id).cancel_requested
    assert not registry.jobs.get(first[Overlap.QUEUE].id).cancel_requested
    assert second[Overlap.QUEUE].state is second[Overlap.CANCEL].state is State.QUEUED

    assert registry.jobs.claim("w", ["import"], 30) is None  # each waits for the one before
    registry.jobs.finish(running[first[Overlap.QUEUE].id], {})
    assert end(registry) == second[Overlap.QUEUE].id
    registry.jobs.fail(running[first[Overlap.CANCEL].id], "cancelled", "It was cancelled.", retry=False)
    assert end(registry) == second[Overlap.CANCEL].id


def test_a_paused_schedule_makes_nothing_and_goes_on_with_the_next_time(registry: Registry) -> None:
    hourly(registry)
    assert not registry.schedules.pause(NAME).enabled
    assert fire_due(registry, NOON + 5 * HOUR) == []
    resumed = registry.schedules.resume(NAME, now=NOON + 5 * HOUR)
    assert (resumed.enabled, resumed.next_at) == (True, datetime(2026, 6, 1, 18, tzinfo=UTC))
    assert fire_due(registry, NOON + 5 * HOUR) == []
    assert len(fire_due(registry, NOON + 6 * HOUR)) == 1
    registry.schedules.pause(NAME)
    stale = registry.schedules.get(NAME)
    assert registry.schedules.fire(stale, [], NOON + 9 * HOUR) == []


def test_run_now_makes_a_job_and_leaves_the_next_time_as_it_was(registry: Registry) -> None:
    schedule = hourly(registry, enabled=False)
    job = fire_now(registry, NAME, NOON)
    assert job.state is State.QUEUED
    assert fire_now(registry, NAME, NOON).id == job.id
    assert skipped(fire_now(registry, NAME, NOON + timedelta(seconds=1)))
    assert registry.schedules.get(NAME).next_at == schedule.next_at


def test_a_schedule_that_is_removed_leaves_its_jobs(registry: Registry) -> None:
    hourly(registry)
    with pytest.raises(ScheduleExists, match="There is a schedule ACME/Hourly already"):
        hourly(registry, Name.parse("ACME/Hourly"))
    (job,) = fire_due(registry, NOON + HOUR)
    registry.schedules.remove(NAME)
    assert registry.jobs.get(job.id).state is State.QUEUED
    assert registry.schedules.list() == []
    with pytest.raises(ScheduleNotFound, match="There is no schedule acme/hourly"):
        registry.schedules.get(NAME)
    with pytest.raises(InvalidRequest, match="source"):
        add_schedule(registry, Settings(), NAME, imports({"name": "acme/llama"}))


def test_the_clock_goes_by_what_it_is_told_until_it_is_stopped(registry: Registry) -> None:
    hourly(registry)
    stop = threading.Event()
    times = iter([NOON, NOON + HOUR, NOON + 2 * HOUR])

    def now() -> datetime:
        told = next(times, None)
        if told is None:
            stop.set()
            return NOON
        return told

    run_schedules(registry, stop, now=now, seconds=0.01)
    assert [skipped(job) for job in registry.schedules.jobs(NAME)] == [True, False]
    assert abs(registry.schedules.now() - datetime.now(UTC)) < timedelta(minutes=1)
