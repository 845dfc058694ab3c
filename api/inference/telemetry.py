"""Traces of generations: from the moment that the engine has them to their last token."""

from __future__ import annotations

from graftwork import tracing
from graftwork.adapters.engine.generation import Generation
from graftwork.api.inference.endings import Ending, when_done


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

    def tell(ending: Ending) -> None:
        if ending.error is not None:
            span.set_attribute(tracing.ERROR, ending.error.code)
        span.set_attribute(tracing.INPUT_TOKENS, generation.prompt_tokens)
        span.set_attribute(tracing.OUTPUT_TOKENS, ending.tokens)
        span.set_attribute(tracing.FINISH_REASONS, ending.reasons)
        span.end()

    when_done(generation, tell)
