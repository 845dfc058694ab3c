"""Progress bars on stderr, and nothing at all when stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from graftwork import progress
from graftwork.cli.render import console

if TYPE_CHECKING:
    from graftwork.client.events import Event


@contextmanager
def progress_bars() -> Iterator[progress.Progress]:
    """One bar a stage, for as long as the context lasts."""
    if not sys.stderr.isatty():
        yield progress.silent
        return
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def told(report: progress.Progress) -> Callable[[Event], None]:
    """Reports how far a server's job is, for what a client tells while it waits."""

    def tell(event: Event) -> None:
        if event.kind == "progress":
            report(event.data["stage"], round(event.data["progress"] * 1000), 1000)

    return tell
