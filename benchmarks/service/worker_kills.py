"""Kill workers with SIGKILL in the middle of merges, and count what became of the jobs.

    python -m benchmarks.service.worker_kills [--kills 50] [--database postgresql] [--workers 3] [--seed 0]

Workers share one queue and are replaced as they die. At the end every job must have succeeded exactly once, and every
version be whole and, where that is looked at, the same as an undisturbed merge of its recipe. Prints the counts; fails
otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.service.scale import database_url
from graftwork.merge.jobs.kinds.merge import submit_merge
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.jobs.events import EventKind
from graftwork.registry.jobs.jobs import State
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.tables import JobRow
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import verify
from graftwork.settings import Settings, environment
from graftwork.testing.model import Shape
from graftwork.testing.tiny import tiny_family

SHAPE = Shape(layers=6, hidden=384, intermediate=1024, heads=6, key_value_heads=2, context=64, rank=4)
LEASE_SECONDS = 2.0
ATTEMPTS = 1000
WORKER = """
import sys, threading
from graftwork.merge.jobs.worker import run_worker
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings
settings = load_settings()
with Registry.open(settings) as registry:
    run_worker(registry, settings, threading.Event(), lease_seconds=float(sys.argv[1]))
"""


def recipe(density: float) -> Any:
    """One of many recipes with results of their own."""
    models = [{"model": f"bench/ft{number}@v1", "parameters": {"weight": 0.5}} for number in range(2)]
    return load_recipe(
        {
            "merge_method": "ties",
            "base_model": "bench/base@v1",
            "models": models,
            "parameters": {"density": round(density, 4)},
        }
    )


def start(settings: Settings) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(LEASE_SECONDS)],
        env={**os.environ, **environment(settings)},
        stderr=subprocess.DEVNULL,
    )


def owners(registry: Registry) -> set[int]:
    """The processes that hold a job."""
    with registry.database.read() as session:
        held = session.scalars(select(JobRow.lease_owner).where(JobRow.state == State.RUNNING))
        return {int(owner.split(":")[1]) for owner in held if owner is not None}


def disturb(registry: Registry, settings: Settings, *, kills: int, workers: int, seed: int) -> int:
    """Keep `workers` at work and kill `kills` that hold a job, one by one; then wait until the queue is empty."""
    rng = random.Random(seed)
    running = [start(settings) for _ in range(workers)]
    killed, submitted = 0, 0
    try:
        while killed < kills or registry.jobs.list(State.QUEUED, 1) or registry.jobs.list(State.RUNNING, 1):
            waiting = len(registry.jobs.list(State.QUEUED, 10))
            while killed < kills and waiting < 2 * workers:
                density = 0.1 + 0.0001 * submitted
                name = f"bench/merged-{submitted}"
                submit_merge(registry, recipe(density), settings=settings, name=name, max_attempts=ATTEMPTS)
                submitted, waiting = submitted + 1, waiting + 1
            time.sleep(rng.uniform(0.0, 0.8))
            busy = owners(registry)
            victims = [worker for worker in running if worker.pid in busy]
            if killed < kills and victims:
                victim = rng.choice(victims)
                victim.kill()
                victim.wait()
                killed += 1
                running.remove(victim)
                running.append(start(settings))
    finally:
        for worker in running:
            worker.kill()
            worker.wait()
    return submitted


def inspect(registry: Registry, settings: Settings, submitted: int, scratch: Path) -> list[str]:
    """Everything that is wrong."""
    wrong = []
    jobs = registry.jobs.list(limit=10_000)
    states = Counter(str(job.state) for job in jobs)
    attempts = Counter(job.attempt for job in jobs)
    print(f"{submitted} jobs: {dict(states)}; attempts {dict(sorted(attempts.items()))}")
    if states != {"succeeded": submitted}:
        wrong.append(f"not all of {submitted} jobs succeeded: {dict(states)}")
    for job in jobs:
        ended = [
            event
            for event in registry.job_events.after(job.id)
            if event.kind is EventKind.STATE and event.data["state"] == State.SUCCEEDED
        ]
        if len(ended) != 1:
            wrong.append(f"job {job.id} succeeded {len(ended)} times")
    rng = random.Random(1)
    for number in sorted(rng.sample(range(submitted), min(5, submitted))):
        version = registry.catalog.resolve(f"bench/merged-{number}")
        out = merge(recipe(0.1 + 0.0001 * number), out=scratch / str(number), registry=registry, settings=settings)
        ours = {file.path: registry.blobs.path(file.sha256, file.generation).read_bytes() for file in version.files}
        if ours != {path.name: path.read_bytes() for path in out.iterdir()}:
            wrong.append(f"bench/merged-{number} differs from an undisturbed merge")
    for number in range(submitted):
        versions = registry.catalog.versions(Name("bench", f"merged-{number}"))
        if len(versions) != 1:
            wrong.append(f"bench/merged-{number} has {len(versions)} versions")
        verify(registry, versions[0])
    return wrong


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database_url(given.database, durable=True) as url:
        root = Path(folder)
        settings = Settings(home=root / "home", database_url=url, threads=1, memory=20_000_000)
        family = tiny_family(root / "family", fine_tunes=2, adapters=0, shape=SHAPE)
        with Registry.open(settings) as registry:
            import_source(registry, str(family.base), Name.parse("bench/base"))
            for name, path in family.fine_tunes.items():
                import_source(registry, str(path), Name("bench", name), base=Ref.parse("bench/base"))
            began = time.monotonic()
            submitted = disturb(registry, settings, kills=given.kills, workers=given.workers, seed=given.seed)
            print(f"{given.kills} workers killed in {time.monotonic() - began:.0f} s")
            wrong = inspect(registry, settings, submitted, root / "again")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
