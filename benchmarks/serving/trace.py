"""What is asked: ragged requests, so many at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serving.family import VOCABULARY

CONCURRENT = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: a prompt, and exactly how many tokens shall follow it. `adapter` counts from 0; None is the base."""

    prompt: list[int]
    tokens: int
    adapter: int | None


def build_trace(count: int, *, adapters: int, seed: int) -> Sequence[Asked]:
    """`count` requests on `adapters` adapters in turn, or on the base.

    Prompts have 16 to 80 tokens, answers 8 to 24. The lengths are always the same; the prompts differ by `seed`, so
    that no cache of prefixes answers a second run.
    """
    rng, words = random.Random(0), random.Random(seed)
    return [
        Asked(
            [words.randrange(2, VOCABULARY) for _ in range(rng.randint(16, 80))],
            rng.randint(8, 24),
            index % adapters if adapters else None,
        )
        for index in range(count)
    ]


def warm_up(*, adapters: int) -> list[Asked]:
    """What every system computes before it is measured: a full batch, four tokens each."""
    trace = build_trace(CONCURRENT, adapters=adapters, seed=-1)
    return [Asked(asked.prompt, 4, asked.adapter) for asked in trace]
