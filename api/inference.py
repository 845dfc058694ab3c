"""From a model's name to a generation, and from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.types import Receive

from graftwork.adapters.engine import sequence
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Completion, Generation, Sampling
from graftwork.adapters.host import Host
from graftwork.api.deps import Services
from graftwork.api.schemas.completions import SamplingFields
from graftwork.errors import ArtifactNotFound, GraftworkError, InvalidReference, ModelNotFound, RevisionNotFound

VERSION_HEADER = "X-Graftwork-Version"

Prepare = Callable[[Engine], tuple[list[int], Sampling]]
"""Makes the engine's input of a client's request: the prompt's tokens and how to sample."""


@dataclass(frozen=True, slots=True)
class Running:
    """A generation and the version that answers: the digest of the adapter, or of the base."""

    generation: Generation
    digest: str

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that name the version."""
        return {VERSION_HEADER: self.digest}

    def envelope(self, prefix: str, model: str) -> dict[str, Any]:
        """What every piece of the answer says of itself; `system_fingerprint` changes when the version does."""
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_{self.digest[:12]}",
        }


async def start(services: Services, model: str, prepare: Prepare) -> Running:
    """Resolve `model` once, pin it and queue the request. Nothing stays pinned when this raises.

    Raises ModelNotFound, NoAdapterCapacity, Overloaded, InvalidRequest, and what loading a model raises.
    """
    return await to_thread.run_sync(_start, services.host, model, prepare, limiter=services.admission)


def encode(engine: Engine, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """The tokens of `text`."""
    tokens: list[int] = engine.tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return tokens


def sampling(fields: SamplingFields, max_tokens: int) -> Sampling:
    """How a client asked to sample, OpenAI's defaults where it did not say."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=fields.top_k or 0,
        seed=fields.seed,
        stop=tuple(fields.stop),
        ignore_eos=fields.ignore_eos,
    )


async def chunks(generation: Generation) -> AsyncIterator[Chunk]:
    """The chunks of `generation` as they come, up to and with the one that ends it. Raises the generation's error."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Chunk | GraftworkError] = asyncio.Queue()

    def hear(event: Chunk | GraftworkError) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    generation.add_listener(hear)
    while True:
        event = await events.get()
        if isinstance(event, GraftworkError):
            raise event
        yield event
        if event.finish_reason is not None:
            return


async def completion(request: Request, generation: Generation) -> Completion:
    """What `generation` comes to. It is aborted when the client of `request` goes away, or this is cancelled."""
    watch = asyncio.create_task(abort_on_disconnect(request.receive, generation))
    try:
        async for _ in chunks(generation):
            pass
        return generation.result()
    finally:
        watch.cancel()
        generation.abort()


async def abort_on_disconnect(receive: Receive, generation: Generation) -> None:
    """Wait until the client behind `receive` is gone, then abort `generation`."""
    with suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass
    generation.abort()


def _start(host: Host, model: str, prepare: Prepare) -> Running:
    try:
        admission = host.admit(model)
    except (ArtifactNotFound, RevisionNotFound, InvalidReference) as error:
        raise ModelNotFound(model=model, reason=_clause(error)) from None
    try:
        prompt, sampling = prepare(admission.engine)
        request = sequence.Request(prompt, sampling, admission.lease)
        generation = admission.engine.submit(request)
    except BaseException:
        if admission.lease is not None:
            admission.lease.release()
        raise
    return Running(generation, (admission.adapter or admission.base).digest)


def _clause(error: GraftworkError) -> str:
    """The error's sentence as a part of another one."""
    return str(error).removesuffix(".").replace("There is", "there is", 1)
