"""What is noted of every request: its id, how long it took and how it ended, in the log and in the metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import AbstractContextManager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork import tracing
from graftwork.api.middleware.errors import REQUEST_ID_HEADER
from graftwork.api.middleware.metrics import Metrics
from graftwork.context import request_id

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
REST_PREFIX = "/api/v1"
UNMATCHED = "unmatched"
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds: logged for debugging only."""

logger = logging.getLogger("graftwork.requests")


class Observing:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; `X-Request-Id` is taken from the client, or made, and given back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        own = given if ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(own)
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = own
            await send(message)

        began = time.perf_counter()
        try:
            with self._metrics.in_flight.track_inprogress(), _traced(scope, own) as span:
                await self._app(scope, receive, sent)
                span.set_attribute(tracing.HTTP_ROUTE, _template(scope))
                span.set_attribute(tracing.HTTP_STATUS, status)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = _template(scope)
        method = scope["method"] if route != UNMATCHED else "any"  # a client can make up methods, too
        self._metrics.answered(method, route, status, seconds)
        principal = scope.get("state", {}).get("principal")
        level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
        logger.log(
            level,
            "%s %s %d in %.1f ms",
            scope["method"],
            scope["path"],
            status,
            seconds * 1000,
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "principal": getattr(principal, "owner", None),
            },
        )


def _traced(scope: Scope, own: str) -> AbstractContextManager[tracing.Span]:
    attributes = {tracing.HTTP_METHOD: scope["method"], tracing.REQUEST_ID: own}
    return tracing.request_span(scope["method"], Headers(scope=scope), attributes)


def _template(scope: Scope) -> str:
    """The route's path as it was declared, which newer releases of the framework give without its prefix."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return UNMATCHED
    return path if path.startswith(REST_PREFIX) or not scope["path"].startswith(REST_PREFIX) else REST_PREFIX + path
