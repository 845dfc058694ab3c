"""A server's answer on its way to the client: every byte as it came, but for the name of the model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from graftwork.api.middleware.errors import inference_problem
from graftwork.api.streams.disconnect import gone
from graftwork.errors import OperationFailed

LONGEST_LINE = 8_000_000


class ModelName:
    """Puts the client's name of the model where the server wrote its own."""

    def __init__(self, own: str, asked: str) -> None:
        """`own` is the name inside the server, `asked` the client's."""
        # a quote inside a JSON text is escaped, so that a text which quotes JSON is never taken for a member
        own_json = re.escape(json.dumps(own).encode())
        self._member = re.compile(rb'("model"\s*:\s*)' + own_json)
        self._asked = json.dumps(asked, ensure_ascii=False).encode()

    def restore(self, line: bytes) -> bytes:
        """`line` with every member `model` that is the server's own name renamed; the rest stays byte for byte."""
        return self._member.sub(lambda match: match[1] + self._asked, line)


class Usage:
    """The tokens that an answer says it used; as many as it had events for a stream that does not say."""

    TOTAL = re.compile(rb'"total_tokens"\s*:\s*(\d+)')
    EVENT = b"data: {"

    def __init__(self, prompt: int) -> None:
        """`prompt` is how many tokens the prompt is thought to have."""
        self.tokens = prompt
        self._is_told = False

    def hear(self, piece: bytes) -> None:
        """The next lines of the answer."""
        if told := self.TOTAL.findall(piece):
            self.tokens, self._is_told = int(told[-1]), True
        elif not self._is_told:
            self.tokens += piece.count(self.EVENT)


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes cut after line ends, each line as soon as it is complete."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if whole:
            yield b"\n".join(whole) + b"\n"
        if len(rest) > LONGEST_LINE:
            yield rest
            rest = b""
    if rest:
        yield rest


class Relay(Response):
    """A stream of a server's answer. When the client goes away, so does the connection to the server, which aborts."""

    def __init__(
        self,
        upstream: httpx.Response,
        first: bytes,
        rest: AsyncIterator[bytes],
        name: ModelName,
        headers: dict[str, str],
        *,
        usage: Usage,
        done: Callable[[], None],
    ) -> None:
        """`first` are bytes that were read already, `rest` those to come; `done` is called at the end of all."""
        super().__init__(status_code=upstream.status_code, headers=headers)
        del self.headers["content-length"]
        self._upstream = upstream
        self._chunks = _with_first(first, rest)
        self._name = name
        self._usage = usage
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on as it comes. A server that breaks off is told as the stream's last event."""
        passing = asyncio.create_task(self._pass_on(send))
        watch = asyncio.create_task(gone(receive))
        try:
            await asyncio.wait((passing, watch), return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                with suppress(OSError):
                    passing.result()
        finally:
            passing.cancel()
            watch.cancel()
            await asyncio.gather(passing, watch, return_exceptions=True)
            await self._upstream.aclose()
            self._done()

    async def _pass_on(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for batch in lines(self._chunks):
                self._usage.hear(batch)
                await _body(send, self._name.restore(batch))
        except httpx.HTTPError as error:
            failure = OperationFailed(what="The generation", reason=f"its server broke off ({error})")
            await _body(send, f"data: {inference_problem(failure).model_dump_json()}\n\n".encode())
        await _body(send, b"", more=False)


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
