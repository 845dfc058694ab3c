"""Progress on stderr: bars, which are nothing at all when that is not a terminal, and waiting for a server's job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graftwork import progress
from graftwork.cli.render import console, say

if TYPE_CHECKING:
    from graftwork.api.schemas.jobs import JobOut
    from graftwork.client import Client
    from graftwork.client.events import Event


@contextmanager
def progress_bars() -> Iterator[progress.Progress]:
    """One bar a stage, for as long as the context lasts."""
    if not sys.stderr.isatty():
        yield progress.silent
        return
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def waited(graft: Client, job: JobOut, report: progress.Progress) -> JobOut:
    """Wait for a server's job, reporting how far it is. Raises what it failed with; Ctrl-C leaves the job going on."""

    def tell(event: Event) -> None:
        if event.kind == "progress":
            report(event.data["stage"], round(event.data["progress"] * 1000), 1000)

    say(f"The server does it as the {job.kind} job {job.id}.")
    try:
        return graft.wait(job.id, tell)
    except KeyboardInterrupt:
        say(f"The job {job.id} goes on; 'graft jobs cancel {job.id}' stops it.")
        raise
