"""The end of a generation, and what it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graftwork.adapters.engine.generation import Chunk, Generation
from graftwork.errors import GraftworkError


@dataclass(frozen=True, slots=True)
class Ending:
    """How many tokens were generated over all choices, why each choice ended, and what the generation failed with."""

    tokens: int
    reasons: list[str]
    error: GraftworkError | None = None


def when_done(generation: Generation, tell: Callable[[Ending], object]) -> None:
    """Call `tell` once `generation` has ended, on the engine's thread; it must not block."""
    unfinished, tokens, reasons = generation.choices, 0, list[str]()

    def hear(event: Chunk | GraftworkError) -> None:
        nonlocal unfinished, tokens
        if isinstance(event, GraftworkError):
            tell(Ending(tokens, reasons, event))
            return
        tokens += len(event.token_ids)
        if event.finish_reason is not None:
            reasons.append(event.finish_reason)
            unfinished -= 1
            if unfinished == 0:
                tell(Ending(tokens, reasons))

    generation.add_listener(hear)
