"""Clients that go away before they have their answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from starlette.types import Receive


async def gone(receive: Receive) -> None:
    """Wait until the client behind `receive` is gone."""
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def call_on_disconnect(receive: Receive, action: Callable[[], object]) -> None:
    """Wait until the client behind `receive` is gone, then call `action`."""
    await gone(receive)
    action()
