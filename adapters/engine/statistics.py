"""What an engine did so far, and what it does now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graftwork.adapters.engine.generation import Chunk
from graftwork.errors import DeadlineExceeded, GraftworkError


@dataclass(frozen=True, slots=True)
class Statistics:
    """One moment of an engine. Counts of what happened run from its start and never fall."""

    waiting: int
    """Sequences without a place."""
    running: int
    """Sequences with a place."""
    in_flight: Mapping[str, int]
    """Sequences, waiting or running, by the digest of their adapter; the base's have an empty one."""
    pages_total: int
    """Pages of the cache that sequences may have."""
    pages_used: int
    """Pages that running sequences hold."""
    pages_idle: int
    """Pages that nobody holds and that keep a prefix."""
    steps: int
    computed_tokens: int
    """Tokens that forwards computed: prompts, and generated ones as input of the next."""
    generated_tokens: int
    prompt_tokens: int
    """Tokens of admitted sequences, counted again when one was preempted."""
    found_tokens: int
    """How many of these were found in the cache and not computed."""
    preemptions: int
    """How often a running sequence had to give its place or its pages to another one."""
    finished: int
    """Sequences that ended with `stop` or `length`."""
    aborted: int
    expired: int
    """Sequences that passed their deadline."""
    failed: int

    @property
    def pages_free(self) -> int:
        """Pages that hold nothing."""
        return self.pages_total - self.pages_used - self.pages_idle


@dataclass(slots=True)
class Counts:
    """What an engine counts while it runs."""

    steps: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    expired: int = 0
    failed: int = 0

    def count(self, end: Chunk | GraftworkError) -> None:
        """One sequence ended so."""
        if isinstance(end, DeadlineExceeded):
            self.expired += 1
        elif isinstance(end, GraftworkError):
            self.failed += 1
        elif end.finish_reason == "abort":
            self.aborted += 1
        else:
            self.finished += 1
