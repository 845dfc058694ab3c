"""How much a client may send: the size of JSON bodies, and how often."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.api.middleware.errors import respond
from graftwork.errors import RateLimited, TooLarge

REMEMBERED = 10_000
"""Owners whose rate is known; the one who was silent longest is forgotten, which is in their favour."""


class Rates:
    """A bucket for each owner: `burst` when full, refilled with `rate` in so many `seconds`. Thread-safe."""

    def __init__(self, rate: int, burst: int, unit: str = "requests a second", seconds: int = 1) -> None:
        """`rate` 0 is no limit; `unit` is of `rate`, as messages say it."""
        self._rate = rate
        self._burst = max(1, burst)
        self._unit = unit
        self._seconds = seconds
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, owner: str, amount: int = 1, *, now: float | None = None) -> int:
        """Take `amount` out of the bucket of `owner`, or all that it holds when full where that is less.

        Returns what was taken. Raises RateLimited while there is not as much.
        """
        if not self._rate:
            return 0
        amount = min(amount, self._burst)
        with self._lock:
            left = self._add(owner, 0, now)
            if left >= amount:
                self._add(owner, -amount, now)
                return amount
        wait = math.ceil((amount - left) * self._seconds / self._rate)
        raise RateLimited(owner=owner, limit=self._rate, unit=self._unit, retry_after=wait)

    def give(self, owner: str, amount: int, *, now: float | None = None) -> None:
        """Put back what was taken and not used; less than nothing is what was used beyond it, and is owed."""
        if self._rate and amount:
            with self._lock:
                self._add(owner, amount, now)

    def _add(self, owner: str, amount: int, now: float | None) -> float:
        now = time.monotonic() if now is None else now
        left, then = self._buckets.pop(owner, (float(self._burst), now))
        left = min(float(self._burst), left + (now - then) * self._rate / self._seconds + amount)
        self._buckets[owner] = (left, now)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return left


def token_rates(per_minute: int) -> Rates:
    """The tokens of prompts and answers that an owner may use; a whole minute's at once."""
    return Rates(per_minute, per_minute, "tokens a minute", 60)


class BodyLimit:
    """Refuses bodies that the framework would read into memory whole and that are too large for that.

    Routes that read their body themselves, in pieces, have limits of their own.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose body is counted as it is read."""
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            if _is_read_whole(scope):
                size += len(message.get("body", b""))
                if max(size, _declared(scope)) > self._limit:
                    raise BodyTooLarge(self._limit)
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


class BodyTooLarge(HTTPException):
    """How the refusal passes through the framework."""

    def __init__(self, limit: int) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        self.limit = limit


def install(app: FastAPI) -> None:
    """Let `app` tell what `BodyLimit` refuses."""
    app.add_exception_handler(BodyTooLarge, _too_large)


async def _too_large(request: Request, error: Exception) -> Response:
    assert isinstance(error, BodyTooLarge)  # noqa: S101
    limit = f"{error.limit} bytes (max_body_bytes)"
    response = respond(request, TooLarge(what="The body", actual="more", limit=limit))
    response.headers["Connection"] = "close"  # what is still to come is not read
    return response


def _is_read_whole(scope: Scope) -> bool:
    route = scope.get("route")
    return isinstance(route, APIRoute) and route.body_field is not None


def _declared(scope: Scope) -> int:
    told = Headers(scope=scope).get("content-length", "")
    return int(told) if told.isdecimal() else 0
