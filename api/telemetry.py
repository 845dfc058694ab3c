"""Traces of generations: from the moment that the engine has them to their last token."""

from __future__ import annotations

from graftwork import tracing
from graftwork.adapters.engine.generation import Chunk, Generation
from graftwork.errors import GraftworkError


def trace_generation(generation: Generation, *, model: str, served: str, max_tokens: int) -> None:
    """Trace a generation that was just submitted; `served` is the version that answers."""
    attributes = {
        tracing.OPERATION: tracing.GENERATION,
        tracing.PROVIDER: tracing.SERVICE,
        tracing.REQUEST_MODEL: model,
        tracing.RESPONSE_MODEL: served,
        tracing.REQUEST_MAX_TOKENS: max_tokens,
    }
    span = tracing.begin(f"{tracing.GENERATION} {model}", attributes)
    if span is tracing.UNTRACED:
        return
    unfinished, tokens, reasons = generation.choices, 0, list[str]()

    def hear(event: Chunk | GraftworkError) -> None:
        nonlocal unfinished, tokens
        if isinstance(event, GraftworkError):
            span.set_attribute(tracing.ERROR, event.code)
            unfinished = 0
        else:
            tokens += len(event.token_ids)
            if event.finish_reason is not None:
                reasons.append(event.finish_reason)
                unfinished -= 1
        if unfinished == 0:
            span.set_attribute(tracing.INPUT_TOKENS, generation.prompt_tokens)
            span.set_attribute(tracing.OUTPUT_TOKENS, tokens)
            span.set_attribute(tracing.FINISH_REASONS, reasons)
            span.end()

    generation.add_listener(hear)
