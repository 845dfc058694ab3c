"""Server-sent events: the stream of a generation, ended with `[DONE]` as OpenAI's clients expect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from graftwork.adapters.engine.sequence import Generation
from graftwork.api.middleware.errors import inference_problem
from graftwork.api.streams.disconnect import on_disconnect
from graftwork.errors import GraftworkError

DONE = "[DONE]"


class EventStream(Response):
    """The events made from `generation`, which is aborted as soon as the client goes away."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, pieces: AsyncIterator[BaseModel], headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._generation = generation
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each event as it comes; an error after the first one becomes the last event."""
        try:
            with on_disconnect(receive, self._generation.abort), suppress(OSError):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for event in _events(self._pieces):
                    body = f"data: {event}\n\n".encode()
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._generation.abort()


async def _events(pieces: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    try:
        async for piece in pieces:
            yield piece.model_dump_json()
    except GraftworkError as error:
        yield inference_problem(error).model_dump_json()
    else:
        yield DONE
