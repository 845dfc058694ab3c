"""`/v1/chat/completions`: answer a conversation, for models whose tokenizer has a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from jinja2 import TemplateError

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Sampling
from graftwork.api.deps import ServicesDep
from graftwork.api.inference import Running, chunks, completion, encode, sampling, start
from graftwork.api.schemas.chat import Answer, ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, ChatResponse, Delta
from graftwork.api.schemas.completions import FinishReason, Usage
from graftwork.api.sse import EventStream
from graftwork.errors import InvalidRequest

router = APIRouter(tags=["inference"])


@router.post("/v1/chat/completions", response_model=ChatResponse)
async def create_chat_completion(body: ChatRequest, request: Request, services: ServicesDep) -> Response:
    """Answer a conversation; `X-Graftwork-Version` names the version that answered."""

    def prepare(engine: Engine) -> tuple[list[int], Sampling]:
        prompt = _render(engine, body)
        wanted = body.max_completion_tokens or body.max_tokens
        return prompt, sampling(body, wanted or max(1, engine.max_tokens - len(prompt)))

    running = await start(services, body.model, prepare)
    envelope = running.envelope("chatcmpl", body.model)
    if body.stream:
        pieces = _pieces(running, envelope, usage=body.wants_usage)
        return EventStream(running.generation, pieces, running.headers)
    done = await completion(request, running.generation)
    answer = ChatResponse(
        **envelope,
        choices=[ChatChoice(message=Answer(content=done.text), finish_reason=done.finish_reason)],
        usage=Usage.of(done.prompt_tokens, done.completion_tokens),
    )
    return JSONResponse(answer.model_dump(), headers=running.headers)


def _render(engine: Engine, body: ChatRequest) -> list[int]:
    if not engine.tokenizer.chat_template:
        raise InvalidRequest(
            field="model", reason=f"{body.model} has no chat template; use /v1/completions with a prompt"
        )
    messages = [message.model_dump() for message in body.messages]
    try:
        text = engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InvalidRequest(field="messages", reason=f"the model's chat template refuses them ({error})") from None
    return encode(engine, str(text), add_special_tokens=False)


async def _pieces(running: Running, envelope: dict[str, Any], *, usage: bool) -> AsyncIterator[ChatChunk]:
    def piece(delta: Delta, finish_reason: FinishReason | None) -> ChatChunk:
        return ChatChunk(**envelope, choices=[ChatChunkChoice(delta=delta, finish_reason=finish_reason)])

    yield piece({"role": "assistant", "content": ""}, None)
    tokens = 0
    async for chunk in chunks(running.generation):
        tokens += len(chunk.token_ids)
        if chunk.text:
            yield piece({"content": chunk.text}, None)
        if chunk.finish_reason:
            yield piece({}, chunk.finish_reason)
    if usage:
        yield ChatChunk(**envelope, choices=[], usage=Usage.of(running.generation.prompt_tokens, tokens))
