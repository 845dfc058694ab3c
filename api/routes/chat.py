"""`/v1/chat/completions`: answer a conversation, for models whose tokenizer has a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from jinja2 import TemplateError

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Chunk, Completion, Sampling
from graftwork.api.dependencies.services import ServicesDep
from graftwork.api.inference.generation import Running, chunks, completions, encode, sampling, start
from graftwork.api.inference.logprobs import chat_logprobs
from graftwork.api.schemas.chat import Answer, ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, ChatResponse, Delta
from graftwork.api.schemas.completions import FinishReason
from graftwork.api.schemas.logprobs import ChatLogprobs
from graftwork.api.streams.generations import EventStream
from graftwork.errors import ContextLengthExceeded, InvalidRequest

router = APIRouter(tags=["inference"])

TEMPLATE_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What a template may raise: its own refusals, and whatever the expressions in it do with the messages."""


@router.post("/v1/chat/completions", response_model=ChatResponse)
async def create_chat_completion(body: ChatRequest, request: Request, services: ServicesDep) -> Response:
    """Answer a conversation; `X-Graftwork-Version` names the version that answered."""

    def prepare(engine: Engine) -> tuple[list[int], Sampling]:
        prompt = _render(engine, body)
        wanted = body.max_completion_tokens or body.max_tokens
        return prompt, sampling(engine, body, wanted or max(1, engine.room - len(prompt)), body.top)

    try:
        running = await start(services, request, body, prepare)
    except ContextLengthExceeded as error:  # the prompt that is too long was made of messages
        field = "messages" if error.fields["field"] == "prompt" else body.limit_field
        raise ContextLengthExceeded(**error.fields | {"field": field}) from None
    envelope = running.envelope("chatcmpl", body.model)
    if body.stream:
        pieces = _pieces(running, envelope, body)
        return EventStream(running.generation, pieces, running.headers)
    done = await completions(request, running.generation)
    answer = ChatResponse(
        **envelope,
        choices=[
            ChatChoice(
                index=choice.index,
                message=Answer(content=choice.text),
                logprobs=_logprobs(running, body, choice),
                finish_reason=choice.finish_reason,
            )
            for choice in done
        ],
        usage=running.usage(sum(choice.completion_tokens for choice in done)),
    )
    return JSONResponse(answer.model_dump(), headers=running.headers)


def _render(engine: Engine, body: ChatRequest) -> list[int]:
    if not engine.tokenizer.chat_template:
        raise InvalidRequest(
            field="model", reason=f"{body.model} has no chat template; use /v1/completions with a prompt"
        )
    messages = [{"role": message.role, "content": message.content} for message in body.messages]
    try:
        text = engine.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **(body.chat_template_kwargs or {})
        )
    except TEMPLATE_FAILURES as error:
        raise InvalidRequest(field="messages", reason=f"the model's chat template refuses them ({error})") from None
    return encode(engine, str(text), add_special_tokens=False)


async def _pieces(running: Running, envelope: dict[str, Any], body: ChatRequest) -> AsyncIterator[ChatChunk]:
    def piece(
        index: int, delta: Delta, finish_reason: FinishReason | None, logprobs: ChatLogprobs | None = None
    ) -> ChatChunk:
        choice = ChatChunkChoice(index=index, delta=delta, finish_reason=finish_reason, logprobs=logprobs)
        return ChatChunk(**envelope, choices=[choice])

    for index in range(running.generation.choices):
        yield piece(index, {"role": "assistant", "content": ""}, None)
    tokens = 0
    async for chunk in chunks(running.generation):
        tokens += len(chunk.token_ids)
        if chunk.text or chunk.logprobs:
            yield piece(chunk.index, {"content": chunk.text}, None, _logprobs(running, body, chunk))
        if chunk.finish_reason:
            yield piece(chunk.index, {}, chunk.finish_reason)
    if body.wants_usage:
        yield ChatChunk(**envelope, choices=[], usage=running.usage(tokens))


def _logprobs(running: Running, body: ChatRequest, said: Chunk | Completion) -> ChatLogprobs | None:
    return None if body.top is None else chat_logprobs(running.tokenizer, said.logprobs)
