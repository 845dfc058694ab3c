"""Jobs in processes of their own: cancelled, killed, short of memory, orphaned."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from graftwork.errors import InvalidRequest
from graftwork.merge.jobs.kinds.merge import submit_merge
from graftwork.merge.jobs.submit import submit
from graftwork.merge.jobs.worker import run_next, run_worker
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.registry.jobs.events import EventKind
from graftwork.registry.jobs.jobs import State
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.waiting import until

STUCK = {"source": "hf:acme/llama", "name": "acme/llama"}
WORKER = """
import sys, threading
from pathlib import Path
from graftwork.merge.jobs.worker import run_worker
from graftwork.registry.registry import Registry
from graftwork.settings import Settings
settings = Settings(home=Path(sys.argv[1]))
with Registry.open(settings) as registry:
    run_worker(registry, settings, threading.Event())
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", threads=1)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that accepts connections and never answers, so that whoever asks it cannot look at a flag."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


@contextmanager
def working(registry: Registry, settings: Settings) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=run_worker, args=(registry, settings, stop))
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()


def ended(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def job_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "graftwork.merge.jobs.child" in (process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.mark.usefixtures("silent_hub")
def test_a_job_that_cannot_listen_is_cancelled_within_seconds(registry: Registry, settings: Settings) -> None:
    job = submit(registry, "import", STUCK)
    with working(registry, settings):
        (child,) = until(job_processes)
        until(lambda: child.num_threads() > 1)
        asked = time.monotonic()
        registry.jobs.cancel(job.id)
        until(lambda: registry.jobs.get(job.id).state is State.CANCELLED)
        assert time.monotonic() - asked < 5  # half a second of grace and a quarter to notice, on a busy machine
        until(lambda: not job_processes())


@pytest.mark.usefixtures("silent_hub")
def test_a_worker_that_stops_gives_its_job_back_and_one_that_is_killed_takes_its_child_along(
    registry: Registry, settings: Settings
) -> None:
    job = submit(registry, "import", STUCK)
    with working(registry, settings):
        until(job_processes)
    seen = registry.jobs.get(job.id)
    assert (seen.state, seen.attempt) == (State.QUEUED, 0)
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(settings.home)])
    (child,) = until(job_processes)
    worker.kill()
    worker.wait()
    until(lambda: ended(child))
    assert registry.jobs.get(job.id).state is State.RUNNING


@pytest.mark.usefixtures("silent_hub")
def test_a_job_whose_process_is_killed_is_tried_again(registry: Registry, settings: Settings) -> None:
    job = submit(registry, "import", STUCK)
    with working(registry, settings):
        (child,) = until(job_processes)
        os.kill(child.pid, signal.SIGKILL)
        seen = until(lambda: now if (now := registry.jobs.get(job.id)).error_code else None)
    assert (seen.state, seen.attempt) == (State.QUEUED, 1)
    assert seen.error_message == "Its process was killed by signal 9."


def test_a_job_that_needs_more_memory_than_it_may_use_fails_and_says_so(
    registry: Registry, settings: Settings, bench: Any
) -> None:
    paths, _ = bench.family(2)
    import_source(registry, paths[0], Name.parse("acme/base"))
    import_source(registry, paths[1], Name.parse("acme/model"), base=Ref.parse("acme/base"))
    recipe = load_recipe(
        {"merge_method": "linear", "models": [{"model": "acme/model", "parameters": {"weight": 1}}] * 2}
    )
    job = submit_merge(registry, recipe, settings=settings, name="acme/merged")
    assert run_next(registry, replace(settings, job_memory=60_000_000), worker="w")
    failed = registry.jobs.get(job.id)
    assert "memory" in (failed.error_message or "").lower()
    assert "acme/merged" not in {str(artifact.name) for artifact in registry.catalog.list()}


def test_what_happened_to_a_job_is_told_in_order(registry: Registry, settings: Settings, bench: Any) -> None:
    paths, _ = bench.family(2)
    import_source(registry, paths[0], Name.parse("acme/base"))
    recipe = load_recipe(
        {"merge_method": "passthrough", "models": [{"model": "acme/base", "parameters": {"scale": 0.5}}]}
    )
    job = submit_merge(registry, recipe, settings=settings, name="acme/half")
    assert run_next(registry, settings, worker="w")
    events = registry.job_events.after(job.id)
    states = [event.data["state"] for event in events if event.kind is EventKind.STATE]
    assert states == ["queued", "running", "succeeded"]
    assert [event.id for event in events] == sorted({event.id for event in events})
    later = registry.job_events.after(job.id, events[0].id)
    assert later == events[1:]


def test_a_payload_that_its_kind_does_not_take_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no kind of job 'dance'; there is .*merge"):
        submit(registry, "dance", {})
    with pytest.raises(InvalidRequest, match="source"):
        submit(registry, "import", {"source": "/etc/passwd", "name": "acme/llama"})
    assert registry.jobs.list() == []
