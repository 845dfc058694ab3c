"""`/v1/completions`: continue a prompt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Completion, Sampling
from graftwork.api.dependencies.services import ServicesDep
from graftwork.api.inference.generation import Running, chunks, completions, encode, sampling, start
from graftwork.api.inference.logprobs import completion_logprobs
from graftwork.api.schemas.completions import CompletionChoice, CompletionRequest, CompletionResponse
from graftwork.api.streams.generations import EventStream

router = APIRouter(tags=["inference"])

DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", response_model=CompletionResponse)
async def create_completion(body: CompletionRequest, request: Request, services: ServicesDep) -> Response:
    """Continue a text or a list of token ids; `X-Graftwork-Version` names the version that answered."""

    def prepare(engine: Engine) -> tuple[list[int], Sampling]:
        prompt = encode(engine, body.prompt) if isinstance(body.prompt, str) else body.prompt
        return prompt, sampling(engine, body, body.max_tokens or DEFAULT_MAX_TOKENS, body.logprobs)

    running = await start(services, request, body, prepare)
    envelope = running.envelope("cmpl", body.model)
    if body.stream:
        pieces = _pieces(running, envelope, body)
        return EventStream(running.generation, pieces, running.headers)
    done = await completions(request, running.generation)
    answer = CompletionResponse(
        **envelope,
        choices=[_choice(running, body, choice) for choice in done],
        usage=running.usage(sum(choice.completion_tokens for choice in done)),
    )
    return JSONResponse(answer.model_dump(), headers=running.headers)


async def _pieces(
    running: Running, envelope: dict[str, Any], body: CompletionRequest
) -> AsyncIterator[CompletionResponse]:
    tokens = 0
    offsets = [0] * running.generation.choices
    async for chunk in chunks(running.generation):
        tokens += len(chunk.token_ids)
        if chunk.text or chunk.finish_reason or chunk.logprobs or body.return_token_ids:
            choice = _choice(running, body, chunk, offsets[chunk.index])
            yield CompletionResponse(**envelope, choices=[choice])
            if choice.logprobs is not None:
                offsets[chunk.index] += sum(map(len, choice.logprobs.tokens))
    if body.wants_usage:
        yield CompletionResponse(**envelope, choices=[], usage=running.usage(tokens))


def _choice(running: Running, body: CompletionRequest, said: Chunk | Completion, offset: int = 0) -> CompletionChoice:
    logprobs = completion_logprobs(running.tokenizer, said.logprobs, offset) if body.logprobs is not None else None
    return CompletionChoice(
        index=said.index,
        text=said.text,
        token_ids=list(said.token_ids) if body.return_token_ids else None,
        logprobs=logprobs,
        finish_reason=said.finish_reason,
    )
