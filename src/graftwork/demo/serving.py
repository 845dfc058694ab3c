"""Requests of the demo's second half: one batch for all adapters, and an alias that moves under load."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

from graftwork.demo.client import Client, Reply

CLIENTS = 6
SHARE = 30
"""Requests answered before the alias is moved, and sent after it has moved."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Replies to requests that were sent at the same moment, and the seconds until the last was there."""

    replies: Sequence[Reply]
    seconds: float


@dataclass(frozen=True, slots=True)
class Swap:
    """Replies in the order in which their requests were sent, and the moments at which the move began and was done."""

    replies: Sequence[Reply]
    began: float
    done: float

    @property
    def before(self) -> list[Reply]:
        """Answered before the move began."""
        return [reply for reply in self.replies if reply.answered < self.began]

    @property
    def during(self) -> list[Reply]:
        """In flight while it happened."""
        return [reply for reply in self.replies if reply.answered >= self.began and reply.sent <= self.done]

    @property
    def after(self) -> list[Reply]:
        """Sent when it was done."""
        return [reply for reply in self.replies if reply.sent > self.done]


def ask_together(client: Client, questions: Sequence[tuple[str, str]]) -> Batch:
    """Send one request for each (model, prompt), all at once. Raises OperationFailed."""
    start = threading.Barrier(len(questions) + 1)

    def ask(model: str, prompt: str) -> Reply:
        start.wait()
        return client.complete(model, prompt)

    with ThreadPoolExecutor(len(questions)) as threads:
        pending = [threads.submit(ask, model, prompt) for model, prompt in questions]
        start.wait()
        began = time.perf_counter()
        replies = [request.result() for request in pending]
    return Batch(replies, time.perf_counter() - began)


def move_under_load(client: Client, model: str, prompts: Sequence[str], move: Callable[[], None]) -> Swap:
    """Keep `CLIENTS` requests to `model` in flight, call `move` in the midst of them, and go on for a while.

    Raises OperationFailed for any request that fails, and what `move` raises.
    """
    replies: list[Reply] = []
    changed = threading.Condition()
    stop = threading.Event()
    questions = cycle(prompts)

    def keep_asking() -> None:
        while not stop.is_set():
            with changed:
                prompt = next(questions)
            reply = client.complete(model, prompt)
            with changed:
                replies.append(reply)
                changed.notify_all()

    with ThreadPoolExecutor(CLIENTS) as threads:
        loops = [threads.submit(keep_asking) for _ in range(CLIENTS)]

        def wait_for(enough: Callable[[], bool]) -> None:
            with changed:
                while not enough() and not any(loop.done() for loop in loops):
                    changed.wait(0.1)

        try:
            wait_for(lambda: len(replies) >= SHARE)
            began = time.perf_counter()
            move()
            done = time.perf_counter()
            wait_for(lambda: sum(reply.sent > done for reply in replies) >= SHARE)
        finally:
            stop.set()
        for loop in loops:
            loop.result()
    return Swap(sorted(replies, key=lambda reply: reply.sent), began, done)
