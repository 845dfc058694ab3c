"""A server that behaves as vLLM does over HTTP, without computing: for tests of what stands in front of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

TOKENS = 4
"""Tokens of every completion."""


@dataclass(eq=False)
class Double:
    """vLLM's HTTP surface with its quirks: an unknown model is 404, an adapter that cannot be loaded 400 or 500, a
    stream's headers come before its first token, a client that goes away aborts. It says which model it was asked for.
    """

    base: str
    known: Callable[[str], bool] = lambda name: True
    refuses: dict[str, str] = field(default_factory=dict)
    """What it says, with status 400, to a model."""
    status: int = 200
    """Any other one answers every completion at once."""
    breaks_after: int | None = None
    """Tokens of a stream after which the connection breaks; 0 is after the headers."""
    token_seconds: float = 0.0
    asked: list[str] = field(default_factory=list)
    """The model of every completion that was asked for."""
    answered: Counter[str] = field(default_factory=Counter)
    """Completions that came to their end, by model."""
    aborted: int = 0

    def app(self) -> FastAPI:
        """The application to serve."""
        app = FastAPI()

        @app.get("/health")
        async def health() -> Response:
            return Response(status_code=200)

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            cards = [{"id": self.base, "parent": None}]
            cards += [{"id": name, "parent": self.base} for name in set(self.asked) if name != self.base]
            return {"object": "list", "data": cards}

        @app.post("/v1/completions")
        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            return await self._complete(request, await request.json())

        return app

    async def _complete(self, request: Request, body: dict[str, Any]) -> Response:
        model = body["model"]
        self.asked.append(model)
        if self.status != 200:
            return problem(self.status, "told to fail")
        if model != self.base and not self.known(model):
            return problem(404, f"The model `{model}` does not exist. Valid aliases: {self.base}.")
        if model in self.refuses:
            return problem(400, self.refuses[model])
        if body.get("stream"):
            return StreamingResponse(self._stream(model), media_type="text/event-stream")
        for _ in range(TOKENS):
            await asyncio.sleep(self.token_seconds)
            if await request.is_disconnected():
                self.aborted += 1
                return Response(status_code=499)
        self.answered[model] += 1
        return JSONResponse({"id": "cmpl-1", "model": model, "choices": [{"index": 0, "text": model}]})

    async def _stream(self, model: str) -> AsyncIterator[str]:
        try:
            for index in range(TOKENS):
                if self.breaks_after == index:
                    raise ConnectionError("told to break")
                await asyncio.sleep(self.token_seconds)
                yield f"data: {json.dumps(event(model, index), separators=(',', ':'))}\n\n"
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        self.answered[model] += 1
        yield "data: [DONE]\n\n"


def event(model: str, index: int) -> dict[str, Any]:
    """One event of a stream; its text looks like the member that names the model."""
    return {"id": "cmpl-1", "model": model, "choices": [{"index": 0, "text": f'{{"model":"{model}"}} {index} é'}]}


def problem(status: int, message: str) -> JSONResponse:
    """A failure as vLLM words it."""
    return JSONResponse({"error": {"message": message, "type": "X", "param": None, "code": status}}, status)
