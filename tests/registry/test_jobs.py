from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from graftwork.errors import JobNotFound, LeaseLost
from graftwork.registry.jobs.jobs import Claim, Jobs, State
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings

LONG = 600.0


@pytest.fixture
def jobs(registry: Registry) -> Jobs:
    return registry.jobs


@pytest.fixture
def expire(registry: Registry) -> Callable[[], None]:
    """Makes every lease run out."""

    def run() -> None:
        with registry.database.engine.begin() as connection:
            connection.execute(text("UPDATE jobs SET lease_expires_at = 1 WHERE state = 'running'"))

    return run


def claim(jobs: Jobs, worker: str = "w", ttl: float = LONG) -> Claim:
    found = jobs.claim(worker, ["merge"], ttl)
    assert found is not None
    return found


def test_a_job_goes_from_queued_to_succeeded(jobs: Jobs) -> None:
    job = jobs.enqueue("merge", {"recipe": {"é": [1, None]}})
    assert (job.state, job.attempt, job.payload) == (State.QUEUED, 0, {"recipe": {"é": [1, None]}})
    held = claim(jobs)
    assert (held.job.id, held.job.state, held.job.attempt) == (job.id, State.RUNNING, 1)
    assert jobs.heartbeat(held, 0.25) is False
    assert jobs.get(job.id).progress == 0.25
    done = jobs.finish(held, {"version": "a/b@v1"})
    assert (done.state, done.progress, done.result) == (State.SUCCEEDED, 1.0, {"version": "a/b@v1"})
    assert done.finished_at is not None
    assert done.finished_at >= job.created_at
    assert jobs.get(job.id) == done
    assert jobs.claim("w", ["merge"], LONG) is None


def test_jobs_are_claimed_by_kind_then_urgency_then_age(jobs: Jobs) -> None:
    order = [jobs.enqueue("merge", {"n": n}, priority=priority).id for n, priority in enumerate((0, 0, 5))]
    jobs.enqueue("other", {})
    claimed = [claim(jobs).job.id for _ in order]
    assert claimed == [order[2], order[0], order[1]]
    assert jobs.claim("w", ["merge"], LONG) is None


def test_a_key_names_at_most_one_living_job(jobs: Jobs) -> None:
    first = jobs.enqueue("merge", {"n": 1}, key="recipe")
    assert jobs.enqueue("merge", {"n": 2}, key="recipe").id == first.id
    held = claim(jobs)
    assert jobs.enqueue("merge", {"n": 2}, key="recipe").id == first.id
    jobs.finish(held, {})
    assert jobs.enqueue("merge", {"n": 2}, key="recipe").id != first.id


def test_a_key_enqueued_from_many_threads_is_one_job(jobs: Jobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda n: jobs.enqueue("merge", {"n": n}, key="recipe").id, range(16)))
    assert len(found) == 1


def test_a_worker_that_lost_its_lease_can_write_nothing(jobs: Jobs, expire: Callable[[], None]) -> None:
    job = jobs.enqueue("merge", {})
    stale = claim(jobs, "slow")
    expire()
    fresh = claim(jobs, "fast")
    assert (fresh.job.id, fresh.job.attempt) == (job.id, 2)
    assert fresh.fence > stale.fence
    writes: list[Callable[[], object]] = [
        lambda: jobs.heartbeat(stale, 0.9),
        lambda: jobs.finish(stale, {"by": "slow"}),
        lambda: jobs.fail(stale, "error", "late", retry=False),
        lambda: jobs.release(stale),
    ]
    for write in writes:
        with pytest.raises(LeaseLost, match=job.id):
            write()
    assert jobs.finish(fresh, {"by": "fast"}).result == {"by": "fast"}


def test_a_heartbeat_keeps_the_lease(jobs: Jobs, expire: Callable[[], None]) -> None:
    jobs.enqueue("merge", {})
    held = claim(jobs)
    expire()
    jobs.heartbeat(held, 0.5)
    assert jobs.reap() == 0
    assert jobs.claim("other", ["merge"], LONG) is None


def test_a_job_whose_workers_all_fall_silent_fails(jobs: Jobs, expire: Callable[[], None]) -> None:
    job = jobs.enqueue("merge", {}, max_attempts=2)
    for _ in range(2):
        claim(jobs)
        expire()
    assert jobs.reap() == 1
    failed = jobs.get(job.id)
    assert (failed.state, failed.error_code) == (State.FAILED, "lease_lost")
    assert failed.finished_at is not None


def test_a_failure_waits_before_it_is_tried_again(jobs: Jobs, registry: Registry) -> None:
    job = jobs.enqueue("merge", {}, max_attempts=2)
    waiting = jobs.fail(claim(jobs), "hub_unavailable", "no route", retry=True)
    assert (waiting.state, waiting.error_code, waiting.error_message) == (State.QUEUED, "hub_unavailable", "no route")
    assert jobs.claim("w", ["merge"], LONG) is None
    with registry.database.engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET run_at = 1"))
    second = claim(jobs)
    assert second.job.error_code is None
    assert jobs.fail(second, "hub_unavailable", "no route", retry=True).state is State.FAILED
    assert jobs.get(job.id).attempt == 2


def test_a_failure_for_good_is_not_tried_again(jobs: Jobs) -> None:
    jobs.enqueue("merge", {})
    assert jobs.fail(claim(jobs), "invalid_recipe", "no", retry=False).state is State.FAILED


def test_cancelling(jobs: Jobs, expire: Callable[[], None]) -> None:
    waiting = jobs.cancel(jobs.enqueue("merge", {}).id)
    assert waiting.state is State.CANCELLED
    assert waiting.finished_at is not None
    running = jobs.enqueue("merge", {})
    held = claim(jobs)
    assert jobs.cancel(running.id).state is State.RUNNING
    assert jobs.heartbeat(held, 0.1) is True
    assert jobs.fail(held, "cancelled", "stopped", retry=True).state is State.CANCELLED
    silent = jobs.enqueue("merge", {})
    claim(jobs)
    jobs.cancel(silent.id)
    expire()
    jobs.reap()
    assert jobs.get(silent.id).state is State.CANCELLED
    finished = jobs.enqueue("merge", {})
    done = jobs.finish(claim(jobs), {})
    assert jobs.cancel(finished.id) == done
    with pytest.raises(JobNotFound):
        jobs.cancel("none")
    with pytest.raises(JobNotFound):
        jobs.get("none")


def test_a_released_job_runs_again_and_loses_no_attempt(jobs: Jobs) -> None:
    job = jobs.enqueue("merge", {}, max_attempts=1)
    jobs.release(claim(jobs))
    assert claim(jobs).job.id == job.id


def test_listing_is_newest_first(jobs: Jobs) -> None:
    ids = [jobs.enqueue("merge", {"n": n}).id for n in range(3)]
    claim(jobs)
    assert {job.id for job in jobs.list()} == set(ids)
    assert [job.id for job in jobs.list(State.RUNNING)] == ids[:1]
    assert len(jobs.list(limit=2)) == 2


def test_finishing_and_registering_happen_together_or_not_at_all(
    registry: Registry, expire: Callable[[], None]
) -> None:
    jobs = registry.jobs
    jobs.enqueue("merge", {})
    held = claim(jobs)
    expire()
    jobs.reap()
    entry = FileEntry("x.txt", *registry.blobs.put_stream([b"x"]))

    def register_and_finish() -> None:
        with registry.database.write() as session:
            registry.catalog.register(Name("a", "b"), Kind.BASE, [entry], session=session)
            jobs.finish(held, {}, session)

    with pytest.raises(LeaseLost):
        register_and_finish()
    assert registry.catalog.list() == []


WORKER = """
import os, signal, sys, time
from pathlib import Path
from graftwork.errors import LeaseLost
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

home, url, log, number = sys.argv[1:]
claims = 0
with Registry.open(Settings(home=Path(home), database_url=url)) as registry:
    while registry.jobs.list("queued", 1) or registry.jobs.list("running", 1):
        claim = registry.jobs.claim(f"worker-{number}", ["merge"], 0.5)
        time.sleep(0.02)
        if claim is None:
            continue
        claims += 1
        if claims == 3 and int(number) in (0, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if claims == 3 and int(number) == 2:
            time.sleep(1)
        try:
            registry.jobs.finish(claim, {"by": number, "fence": claim.fence})
        except LeaseLost:
            continue
        with open(log, "a") as file:
            file.write(claim.job.id + "\\n")
"""


def test_killed_workers_lose_no_job_and_repeat_none(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    count = 60
    ids = {registry.jobs.enqueue("merge", {"n": n}, max_attempts=50).id for n in range(count)}
    log = tmp_path / "finished"
    log.touch()
    numbers = iter(range(1000))

    def start() -> subprocess.Popen[bytes]:
        arguments = [str(settings.home), settings.database_url, str(log), str(next(numbers))]
        return subprocess.Popen([sys.executable, "-c", WORKER, *arguments])

    workers = [start() for _ in range(3)]
    kills = 0
    deadline = time.monotonic() + 60
    while workers:
        assert time.monotonic() < deadline
        for worker in list(workers):
            if worker.poll() is not None:
                workers.remove(worker)
                if worker.returncode == -signal.SIGKILL:
                    kills += 1
                    workers.append(start())
                else:
                    assert worker.returncode == 0
        time.sleep(0.05)
    finished = log.read_text().split()
    assert kills > 0
    assert sorted(finished) == sorted(ids)
    assert {job.state for job in registry.jobs.list(limit=count)} == {State.SUCCEEDED}
