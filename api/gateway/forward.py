"""One request's way to a server of the fleet, and to another one as long as nothing has been answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from graftwork.adapters.fleet.fleet import Fleet, Place
from graftwork.adapters.fleet.host import Target
from graftwork.adapters.fleet.wire import ANSWER_TIMEOUT, message, said
from graftwork.api.gateway.relay import ModelName, Relay, Usage
from graftwork.api.inference.admission import VERSION_HEADER
from graftwork.api.streams.bodies import parse_object, read_body
from graftwork.api.streams.disconnect import gone
from graftwork.errors import EngineUnavailable, InvalidRequest, Overloaded

T = TypeVar("T")

MAX_BODY_BYTES = 64_000_000
CHARACTERS_A_TOKEN = 4
BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
PASSED_ON = ("content-type", "x-request-id", "retry-after")


@dataclass(frozen=True, slots=True)
class Asked:
    """A client's request: its body, parsed, and where it goes."""

    body: dict[str, Any]
    path: str

    @property
    def model(self) -> str:
        """What the client calls the model."""
        model: str = self.body["model"]
        return model

    @property
    def prompt_tokens(self) -> int:
        """About how many tokens its prompt has: only the server can count them."""
        return len(json.dumps(self.body.get("messages") or self.body.get("prompt"))) // CHARACTERS_A_TOKEN

    @property
    def most_tokens(self) -> int:
        """About how many tokens it may use, as far as it says that."""
        asked = (self.body.get(name) for name in ("max_completion_tokens", "max_tokens", "n"))
        completion, answer, choices = (value if isinstance(value, int) else 0 for value in asked)
        return self.prompt_tokens + max(choices, 1) * max(completion or answer, 1)

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.body.get("stream") is True


async def read(request: Request) -> Asked:
    """The request that a client sent. Raises InvalidRequest, TooLarge, ClientDisconnect."""
    told = parse_object(await read_body(request, limit=MAX_BODY_BYTES))
    if not isinstance(told.get("model"), str):
        raise InvalidRequest(field="model", reason="expected the name of a model")
    return Asked(told, request.url.path)


async def forward(
    request: Request,
    asked: Asked,
    target: Target,
    fleet: Fleet,
    client: httpx.AsyncClient,
    settle: Callable[[int], None],
) -> Response:
    """The answer of the first server that gives one; `settle` is told the tokens that it used once it is complete.

    A server that cannot be reached, breaks off before its first byte, is full or fails is left for another one; what
    a client did wrong is answered as the server says it. Raises EngineUnavailable, Overloaded, and ClientDisconnect
    when the client goes away first; the server's work is aborted then.
    """
    tried: dict[str, _Failure] = {}
    while True:
        try:
            place = fleet.place(target.version.digest, target.base, model=asked.model, avoid=tried)
        except EngineUnavailable:
            if not tried:
                raise
            raise _worst(asked.model, tried) from None
        answer = await _unless_gone(request, _attempt(asked, target, place, fleet, client, settle))
        if isinstance(answer, Response):
            return answer
        tried[place.url] = answer


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a server did not answer a request."""

    reason: str
    is_busy: bool = False


async def _attempt(
    asked: Asked,
    target: Target,
    place: Place,
    fleet: Fleet,
    client: httpx.AsyncClient,
    settle: Callable[[int], None],
) -> Response | _Failure:
    own = target.engine_name or place.model
    upstream: httpx.Response | None = None
    keep = False
    try:
        body = json.dumps({**asked.body, "model": own}).encode()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        sent = client.build_request(
            "POST", place.url + asked.path, content=body, headers=headers, timeout=ANSWER_TIMEOUT
        )
        upstream = await client.send(sent, stream=True)
        if failure := await _failure(upstream, own):
            fleet.answered(place.url, well=failure.is_busy)
            return failure
        name = ModelName(own, asked.model)
        told = {key: upstream.headers[key] for key in PASSED_ON if key in upstream.headers}
        told[VERSION_HEADER] = target.version.digest
        usage = Usage(asked.prompt_tokens)
        if not asked.is_stream or upstream.status_code != HTTPStatus.OK:
            whole = await upstream.aread()
            usage.hear(whole)
            settle(usage.tokens if upstream.status_code == HTTPStatus.OK else 0)
            fleet.answered(place.url, well=True)
            return Response(name.restore(whole), upstream.status_code, told)
        chunks = upstream.aiter_raw()
        first = await anext(chunks, b"")
        fleet.answered(place.url, well=True)
        told |= {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        keep = True

        def done() -> None:
            place.release()
            settle(usage.tokens)

        return Relay(upstream, first, chunks, name, told, usage=usage, done=done)
    except httpx.HTTPError as error:
        fleet.failed(place.url, said(error))
        return _Failure(f"{place.url}: {said(error)}")
    finally:
        if not keep:
            if upstream is not None:
                await upstream.aclose()
            place.release()


async def _failure(upstream: httpx.Response, own: str) -> _Failure | None:
    """Why the answer is the server's failure and not the client's; None for one that the client should see."""
    status = upstream.status_code
    is_unknown = status == HTTPStatus.NOT_FOUND
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in BUSY and not is_unknown:
        return None
    told = message(await upstream.aread())
    url = f"{upstream.request.url.scheme}://{upstream.request.url.netloc.decode()}"
    hint = " (is the graftwork plugin installed there, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1?)" if is_unknown else ""
    return _Failure(f"{url} answers {status} for {own}, {told}{hint}", is_busy=status in BUSY)


def _worst(model: str, tried: dict[str, _Failure]) -> Overloaded:
    """One error for all failures: 429 when every server was just full."""
    reasons = "; ".join(failure.reason for failure in tried.values())
    if all(failure.is_busy for failure in tried.values()):
        return Overloaded(reason=reasons)
    return EngineUnavailable(model=model, reason=reasons)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to; it is cancelled when the client of `request` goes away first, or this is."""
    working = asyncio.create_task(work)
    watch = asyncio.create_task(gone(request.receive))
    try:
        await asyncio.wait((working, watch), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        watch.cancel()
        working.cancel()
        await asyncio.gather(working, watch, return_exceptions=True)
