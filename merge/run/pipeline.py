"""Work in stages on several threads: the tasks of a stage run in any order, the next stage waits for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

Task = Callable[[], int]
"""Does a part of the work and returns how much of it, in the caller's unit."""
Stages = Generator[Sequence[Task], None, None]
"""Gives the tasks of one stage after another; it is resumed when those it gave are finished."""

AHEAD = 2
"""Tasks queued for each thread before the next pipeline is started."""


@dataclass
class _Running:
    stages: Stages
    left: int = 0


def run_pipelines(pipelines: Iterable[Stages], *, threads: int, report: Callable[[int], None]) -> None:
    """Run every pipeline to its end, starting them in order and several at a time.

    `report` is called here, in the caller's thread, with what each task returned; when it or a task raises, no further
    task is started, those that run are waited for, and the exception goes to the caller.
    """
    waiting = iter(pipelines)
    finished: SimpleQueue[Future[int]] = SimpleQueue()
    owners: dict[Future[int], _Running] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix="merge") as pool:

        def advance(running: _Running) -> None:
            for tasks in running.stages:
                if not tasks:
                    continue
                running.left = len(tasks)
                for task in tasks:
                    future = pool.submit(task)
                    owners[future] = running
                    future.add_done_callback(finished.put)
                return

        try:
            while True:
                while len(owners) < AHEAD * threads and (stages := next(waiting, None)) is not None:
                    advance(_Running(stages))
                if not owners:
                    return
                future = finished.get()
                running = owners.pop(future)
                report(future.result())
                running.left -= 1
                if running.left == 0:
                    advance(running)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
