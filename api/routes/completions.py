"""`/v1/completions`: continue a prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Completion, Sampling
from graftwork.api.deps import ServicesDep
from graftwork.api.inference import Running, chunks, completion, encode, sampling, start
from graftwork.api.schemas.completions import CompletionChoice, CompletionRequest, CompletionResponse, Usage
from graftwork.api.sse import EventStream

router = APIRouter(tags=["inference"])

DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", response_model=CompletionResponse)
async def create_completion(body: CompletionRequest, request: Request, services: ServicesDep) -> Response:
    """Continue a text or a list of token ids; `X-Graftwork-Version` names the version that answered."""

    def prepare(engine: Engine) -> tuple[list[int], Sampling]:
        prompt = encode(engine, body.prompt) if isinstance(body.prompt, str) else body.prompt
        return prompt, sampling(body, body.max_tokens or DEFAULT_MAX_TOKENS)

    running = await start(services, body.model, prepare)
    envelope = running.envelope("cmpl", body.model)
    if body.stream:
        pieces = _pieces(running, envelope, body)
        return EventStream(running.generation, pieces, running.headers)
    done = await completion(request, running.generation)
    answer = CompletionResponse(
        **envelope,
        choices=[_choice(body, done)],
        usage=Usage.of(done.prompt_tokens, done.completion_tokens),
    )
    return JSONResponse(answer.model_dump(), headers=running.headers)


async def _pieces(
    running: Running, envelope: dict[str, Any], body: CompletionRequest
) -> AsyncIterator[CompletionResponse]:
    tokens = 0
    async for chunk in chunks(running.generation):
        tokens += len(chunk.token_ids)
        if chunk.text or chunk.finish_reason or body.return_token_ids:
            yield CompletionResponse(**envelope, choices=[_choice(body, chunk)])
    if body.wants_usage:
        usage = Usage.of(running.generation.prompt_tokens, tokens)
        yield CompletionResponse(**envelope, choices=[], usage=usage)


def _choice(body: CompletionRequest, said: Chunk | Completion) -> CompletionChoice:
    return CompletionChoice(
        text=said.text,
        token_ids=list(said.token_ids) if body.return_token_ids else None,
        finish_reason=said.finish_reason,
    )
