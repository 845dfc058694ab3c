"""When a request is sent again: the same for both clients, which only differ in how they wait and send."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import httpx

from graftwork.client.call import Call
from graftwork.client.errors import raise_for
from graftwork.errors import ServerUnreachable

T = TypeVar("T")
RETRIES = 3
RETRIED = frozenset({429, 503})
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})

Outcome = httpx.Response | httpx.TransportError
"""What came of sending a request."""


def exchange(call: Call[T], url: object) -> Generator[float, Outcome, T]:
    """Gives the seconds to wait before each attempt, and is sent what came of it; returns what the answer says.

    Raises what the server answers, and ServerUnreachable.
    """
    attempt, pause = 0, 0.0
    while True:
        outcome = yield pause
        last = attempt == RETRIES or call.method not in IDEMPOTENT
        if isinstance(outcome, httpx.TransportError):
            if last:
                raise unreachable(url, outcome)
            pause = seconds(attempt)
        elif last or outcome.status_code not in RETRIED:
            raise_for(outcome)
            return call.read(outcome)
        else:
            pause = seconds(attempt, outcome)
        attempt += 1


def seconds(attempt: int, response: httpx.Response | None = None) -> float:
    """How long to wait for the next attempt: what the server asks for, else 0.1, 0.2, 0.4 ..."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return float(asked) if asked.isdecimal() else 0.1 * 2.0**attempt


def unreachable(url: object, error: httpx.TransportError) -> ServerUnreachable:
    """What is raised when no attempt was answered."""
    return ServerUnreachable(url=url, reason=str(error) or "no answer")
