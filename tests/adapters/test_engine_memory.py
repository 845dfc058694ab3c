"""A cache that is too small for all: sequences give way and come back, and nobody notices."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.errors import InvalidRequest, InvalidSetting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.adapters.conftest import EngineFactory, Family

PAGE = 3072
"""Bytes of four positions of the Llama of the tests."""


def drain(engine: Engine, limit: int = 5000) -> None:
    steps = 0
    while engine.step():
        steps += 1
        assert steps < limit


def test_sequences_that_give_way_are_token_exact(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4, cache_bytes=24 * PAGE)
    rng = random.Random(4)
    asked: list[tuple[str | None, list[int], int, Generation]] = []
    for index in range(14):
        name = [None, *family.adapters][index % 6]
        prompt = [rng.randrange(256) for _ in range(rng.choice([1, 3, 9, 25, 40]))]
        tokens = rng.randint(5, 30)
        sampling = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)
        asked.append((name, prompt, tokens, engine.submit(Request(prompt, sampling, family.lease(engine, name)))))
    drain(engine)
    for name, prompt, tokens, generation in asked:
        assert generation.result(timeout=0).token_ids == family.greedy(name, prompt, tokens, ignore_eos=True)
    seen = engine.statistics()
    assert seen.preemptions > 0
    assert (seen.pages_used, seen.finished, seen.pages_total) == (0, 14, 24)


def test_sampled_sequences_go_on_with_their_own_random_numbers(family: Family, engine_of: EngineFactory) -> None:
    wanted = [Sampling(max_tokens=24, temperature=1.2, seed=seed, ignore_eos=True) for seed in range(5)]
    said = []
    for pages in (24, 200):
        engine = engine_of(family, page_tokens=4, cache_bytes=pages * PAGE)
        generations = [engine.submit(Request(list(b"once upon a time"), sampling)) for sampling in wanted]
        drain(engine)
        said.append([generation.result(timeout=0).token_ids for generation in generations])
        assert (engine.statistics().preemptions > 0) == (pages == 24)
    assert said[0] == said[1]


def test_a_sliding_window_is_kept_over_pages_and_preemption(
    family_of: Callable[[str], Family], engine_of: EngineFactory
) -> None:
    family = family_of("mistral")
    engine = engine_of(family, page_tokens=4, cache_bytes=16 * 2048, prefill_tokens=7)
    prompts = [list(b"a window of nine positions"), list(b"over pages of four positions"), [1, 2]]
    sampling = Sampling(max_tokens=20, temperature=0, ignore_eos=True)
    generations = [engine.submit(Request(prompt, sampling)) for prompt in prompts]
    drain(engine)
    for prompt, generation in zip(prompts, generations, strict=True):
        assert generation.result(timeout=0).token_ids == family.greedy(None, prompt, 20, ignore_eos=True)
    assert engine.statistics().preemptions > 0


def test_choices_share_the_prompt_and_copy_the_page_they_write(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4)
    prompt = list(b"eleven char")
    sampling = Sampling(max_tokens=6, temperature=1.5, seed=3, ignore_eos=True)
    engine.submit(Request(prompt, sampling, family.pin(engine, "mlp"), n=3))
    engine.step()
    assert engine.residency.pins(family.digest("mlp")) == 3
    first, *others = engine._scheduler.all()
    assert all(other.pages == first.pages for other in others)
    assert engine.statistics().pages_used == 3
    engine.step()
    assert engine.statistics().pages_used == 5, "two full pages together and one of each choice"
    drain(engine)
    assert engine.statistics().pages_used == 0
    assert engine.residency.pins(family.digest("mlp")) == 0


@pytest.mark.parametrize("pages", [8, 200])
def test_choices_are_what_requests_of_their_own_give(family: Family, engine_of: EngineFactory, pages: int) -> None:
    engine = engine_of(family, page_tokens=4, cache_bytes=pages * PAGE, max_sequences=4)
    prompt = list(b"nine char")

    def ask(seed: int, n: int) -> Generation:
        sampling = Sampling(max_tokens=12, temperature=1.5, seed=seed, ignore_eos=True)
        return engine.submit(Request(prompt, sampling, family.pin(engine, "everything"), n=n))

    together = ask(7, 6)
    drain(engine)
    alone = [ask(7 + index, 1) for index in range(6)]
    drain(engine)
    choices = together.results(timeout=0)
    assert [choice.index for choice in choices] == list(range(6))
    assert [choice.token_ids for choice in choices] == [generation.result().token_ids for generation in alone]
    assert len({tuple(choice.token_ids) for choice in choices}) == 6
    assert engine.residency.pins(family.digest("everything")) == 0


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_choices_are_aborted_together(family: Family, engine_of: EngineFactory, steps: int) -> None:
    engine = engine_of(family, page_tokens=4, max_sequences=2)
    sampling = Sampling(max_tokens=50, temperature=1, ignore_eos=True)
    generation = engine.submit(Request([1, 2, 3], sampling, family.pin(engine, "mlp"), n=3))
    for _ in range(steps):
        engine.step()
    generation.abort()
    drain(engine)
    assert [choice.finish_reason for choice in generation.results(timeout=0)] == ["abort"] * 3
    assert engine.residency.pins(family.digest("mlp")) == 0
    assert engine.statistics().pages_used == 0


def test_what_can_never_fit_is_refused(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4, cache_bytes=8 * PAGE)
    with pytest.raises(InvalidRequest, match="max_tokens: 20 prompt tokens and 13 new ones; the cache has room for 32"):
        engine.submit(Request([1] * 20, Sampling(max_tokens=13)))
    fits = engine.submit(Request([1] * 20, Sampling(max_tokens=12, temperature=0, ignore_eos=True)))
    drain(engine)
    assert fits.result(timeout=0).token_ids == family.greedy(None, [1] * 20, 12, ignore_eos=True)
    with pytest.raises(InvalidSetting, match="CACHE_BYTES is 1000: expected at least"):
        engine_of(family, cache_bytes=1000)
