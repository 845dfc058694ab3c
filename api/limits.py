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

from graftwork.api.errors import respond
from graftwork.errors import RateLimited, TooLarge

REMEMBERED = 10_000
"""Owners whose rate is known; the one who was silent longest is forgotten, which is in their favour."""


class Rates:
    """A bucket of tokens for each owner: `burst` when full, refilled with `rate` a second. Thread-safe."""

    def __init__(self, rate: int, burst: int) -> None:
        """`rate` 0 is no limit."""
        self._rate = rate
        self._burst = max(1, burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, owner: str, now: float | None = None) -> None:
        """Count a request of `owner`. Raises RateLimited when the bucket is empty."""
        if not self._rate:
            return
        now = time.monotonic() if now is None else now
        with self._lock:
            left, then = self._buckets.pop(owner, (float(self._burst), now))
            left = min(float(self._burst), left + (now - then) * self._rate)
            allowed = left >= 1
            self._buckets[owner] = (left - allowed, now)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited(owner=owner, limit=self._rate, retry_after=math.ceil((1 - left) / self._rate))


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
