"""Work for small models: one core each, several at once.

Threads within one operation hardly help a model this small, and wait for each other without end on a busy machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def one_core() -> Iterator[None]:
    """Let torch use one thread in the thread of the caller."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def on_all_cores(jobs: Sequence[Callable[[Event], Result]]) -> list[Result]:
    """The results of `jobs`, in their order; as many run at once as there are cores.

    A job is given an event that is set when it should give up, because another one failed or the caller was
    interrupted. Raises the first failure.
    """
    give_up = Event()

    def run(job: Callable[[Event], Result]) -> Result:
        with one_core():
            return job(give_up)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            return list(threads.map(run, jobs))
        except BaseException:
            give_up.set()
            raise
