"""The stages of the demo on the terminal: a bar while one runs, a line with its time when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from graftwork import progress

TITLES = {
    "base": "train a base model on a careless corpus",
    "fine-tunes": "fine-tune all of it, once for each skill",
    "adapters": "train a LoRA adapter for each skill (PEFT)",
    "register": "register them with their lineage",
    "merge": "merge fine-tunes three ways, adapters two ways",
    "evaluate": "answer the test prompts with every model",
}
WIDTH = max(map(len, TITLES.values()))


@contextmanager
def stages(console: Console) -> Iterator[progress.Progress]:
    """Reports stages on `console`; one stage follows another and ends when all of its units are done."""
    columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    ended = time.perf_counter()
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal ended
            if stage not in tasks:
                tasks[stage] = bars.add_task(TITLES[stage].ljust(WIDTH), total=total)
            bars.update(tasks[stage], completed=done)
            if done == total:
                bars.remove_task(tasks[stage])
                began, ended = ended, time.perf_counter()
                console.print(f"[green]✓[/] {TITLES[stage].ljust(WIDTH)} {ended - began:6.1f} s")

        yield report
