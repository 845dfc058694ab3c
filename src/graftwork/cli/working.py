"""`graft worker`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click

from graftwork import logs
from graftwork.cli.options import home_option, parse_bytes
from graftwork.cli.render import say
from graftwork.settings import load_settings


@click.command()
@click.option("--jobs", "slots", type=click.IntRange(1), metavar="N", default=1, show_default=True, help="At a time.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only jobs of this kind; may be repeated.")
@click.option("--job-memory", callback=parse_bytes, metavar="SIZE", help="What the process of a job may hold, as 8GB.")
@home_option
def worker(slots: int, kinds: tuple[str, ...], job_memory: int | None, home: Path | None) -> None:
    """Carry out jobs of a registry, and make those of its schedules.

    It goes on until it is told to stop. Any number of workers, on any machine that reaches the same database and
    storage, share one queue. Each job runs in a process of its own. A worker that is stopped gives its jobs back; one
    that is killed loses them to the next worker when their leases run out.

    \b
    Example:
        graft worker --jobs 2 --job-memory 8GB
    """
    from graftwork.merge.jobs.kind import kind_named
    from graftwork.merge.jobs.scheduler import run_schedules
    from graftwork.merge.jobs.worker import run_worker
    from graftwork.registry.registry import Registry

    settings = load_settings(home=home, job_memory=job_memory)
    for kind in kinds:
        kind_named(kind)
    stop = threading.Event()
    signals: list[int] = []

    def told(number: int, frame: object) -> None:
        signals.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, told)
    logs.configure(settings)
    with Registry.open(settings) as registry:
        threads = [
            threading.Thread(target=run_worker, args=(registry, settings, stop, kinds), name=f"worker-{slot}")
            for slot in range(slots)
        ]
        threads.append(threading.Thread(target=run_schedules, args=(registry, stop), name="scheduler"))
        for thread in threads:
            thread.start()
        say(f"Working for {settings.home} (Ctrl-C stops it)")
        for thread in threads:
            thread.join()
    if signal.SIGINT in signals:
        raise click.Abort
