"""Clients that go away before they have their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from starlette.types import Receive

from graftwork.errors import Cancelled

T = TypeVar("T")
CLIENT_GONE = 499
"""The status of what nobody waits for any more."""


async def gone(receive: Receive) -> None:
    """Wait until the client behind `receive` is gone."""
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass


@contextmanager
def on_disconnect(receive: Receive, action: Callable[[], object]) -> Iterator[None]:
    """Call `action` when the client behind `receive` goes away while the block runs."""

    async def call() -> None:
        await gone(receive)
        action()

    watch = asyncio.create_task(call())
    try:
        yield
    finally:
        watch.cancel()


async def unless_gone(receive: Receive, work: asyncio.Future[T], abort: Callable[[], object]) -> T:
    """What `work` comes to; `abort`, which ends it, is called when the client behind `receive` goes away.

    Raises Cancelled when it was ended, and CancelledError when the task that waits was.
    """
    with on_disconnect(receive, abort):
        try:
            return await work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Cancelled(what="The request") from None
