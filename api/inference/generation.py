"""From a model's name to a generation, and from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from transformers import PreTrainedTokenizerBase

from graftwork.adapters.engine import sequence
from graftwork.adapters.engine.checkpoint import PREFERENCES
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Completion, Generation, Sampling
from graftwork.adapters.hosting.admission import Admission
from graftwork.api.dependencies.allowance import Reserve, reserving
from graftwork.api.dependencies.services import Services
from graftwork.api.inference.admission import VERSION_HEADER, admit, tenant_of
from graftwork.api.inference.endings import when_done
from graftwork.api.inference.telemetry import trace_generation
from graftwork.api.schemas.completions import SamplingFields, Usage
from graftwork.api.streams.disconnect import on_disconnect
from graftwork.errors import GraftworkError

Prepare = Callable[[Engine], tuple[list[int], Sampling]]
"""Makes the engine's input of a client's request: the prompt's tokens and how to sample."""


@dataclass(frozen=True, slots=True)
class Running:
    """A generation and the version that answers: the digest of the adapter, the mixture or the base."""

    generation: Generation
    digest: str
    tokenizer: PreTrainedTokenizerBase

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that name the version."""
        return {VERSION_HEADER: self.digest}

    def usage(self, tokens: int) -> Usage:
        """What was computed for it, `tokens` of them generated."""
        return Usage.of(self.generation.prompt_tokens, tokens, self.generation.cached_tokens)

    def envelope(self, prefix: str, model: str) -> dict[str, Any]:
        """What every piece of the answer says of itself; `system_fingerprint` changes when the version does."""
        return {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_{self.digest[:12]}",
        }


async def start(services: Services, request: Request, fields: SamplingFields, prepare: Prepare) -> Running:
    """Resolve the model once, pin it and queue the request. Nothing stays pinned when this raises.

    Raises ModelNotFound, NoAdapterCapacity, Overloaded, RateLimited, InvalidRequest, Cancelled when the client goes
    away meanwhile, and what loading a model raises.
    """
    admission = await admit(services, request, fields.model)
    tenant = tenant_of(services, request, fields.user or fields.model)
    reserve = reserving(services.token_rates, request)
    return await to_thread.run_sync(_submit, admission, fields, tenant, prepare, reserve, limiter=services.admission)


def encode(engine: Engine, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """The tokens of `text`."""
    # not verbose: how long a text may be is for the engine to say
    tokens: list[int] = engine.tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False)
    return tokens


def sampling(engine: Engine, fields: SamplingFields, max_tokens: int, logprobs: int | None) -> Sampling:
    """How a client asked to sample; where it did not say, as the model's generation_config.json has it, else OpenAI's
    defaults.
    """
    asked = {name: getattr(fields, name) for name in PREFERENCES}
    said = {name: value for name, value in asked.items() if value is not None}
    return Sampling(
        **{**engine.preferred, **said},
        max_tokens=max_tokens,
        seed=fields.seed,
        stop=tuple(fields.stop),
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        ignore_eos=fields.ignore_eos,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=fields.logit_bias or {},
        logprobs=logprobs,
    )


async def chunks(generation: Generation) -> AsyncIterator[Chunk]:
    """The chunks of `generation` as they come, to the one that ends its last choice. Raises the generation's error."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Chunk | GraftworkError] = asyncio.Queue()

    def hear(event: Chunk | GraftworkError) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    generation.add_listener(hear)
    unfinished = generation.choices
    while unfinished:
        event = await events.get()
        if isinstance(event, GraftworkError):
            raise event
        unfinished -= event.finish_reason is not None
        yield event


async def completions(request: Request, generation: Generation) -> list[Completion]:
    """What `generation` comes to. It is aborted when the client of `request` goes away, or this is cancelled.

    Raises the generation's error.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    when_done(generation, lambda _: loop.call_soon_threadsafe(ended.set))
    try:
        with on_disconnect(request.receive, generation.abort):
            await ended.wait()
        return generation.results()
    finally:
        generation.abort()


def _submit(admission: Admission, fields: SamplingFields, tenant: str, prepare: Prepare, reserve: Reserve) -> Running:
    with ExitStack() as undo:
        undo.callback(admission.release)
        engine = admission.engine
        prompt, sampling = prepare(engine)
        choices = fields.n or 1
        reserved = reserve(len(prompt) + choices * sampling.max_tokens)
        undo.callback(reserved.settle, 0)
        lease = admission.lease_for(prompt)
        asked = sequence.Request(prompt, sampling, lease, n=choices, tenant=tenant, timeout=fields.timeout)
        generation = engine.submit(asked)
        undo.pop_all()
    if reserved.taken:  # nothing hears every token for a rate that is not limited
        settle = reserved.settle
        when_done(generation, lambda ending: settle(generation.prompt_tokens + ending.tokens))
    trace_generation(generation, model=fields.model, served=admission.served, max_tokens=sampling.max_tokens)
    return Running(generation, admission.digest, engine.tokenizer)
