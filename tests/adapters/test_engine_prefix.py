"""What an earlier request computed is used again, by the same adapter only, and changes no token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.errors import OperationFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import torch

    from tests.adapters.conftest import EngineFactory, Family

PROMPT = list(b"a system prompt that every request begins with; ")
GREEDY = Sampling(max_tokens=6, temperature=0, ignore_eos=True)


def run(engine: Engine, family: Family, name: str | None, prompt: list[int]) -> Generation:
    generation = engine.submit(Request(prompt, GREEDY, family.lease(engine, name)))
    while engine.step():
        pass
    return generation


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_a_prefix_that_was_found_changes_no_token(
    architecture: str, family_of: Callable[[str], Family], engine_of: EngineFactory
) -> None:
    family = family_of(architecture)
    engine = engine_of(family, page_tokens=4, prefill_tokens=10)
    for name in (None, "everything"):
        for ending in (b"", b"one", b"another", b"o", b"one"):
            prompt = PROMPT + list(ending)
            generation = run(engine, family, name, prompt)
            assert generation.result().token_ids == family.greedy(name, prompt, 6, ignore_eos=True), (name, ending)
    assert generation.cached_tokens == (len(PROMPT) + 2) // 4 * 4


def test_one_prompt_under_every_adapter_shares_no_page(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4)
    names = [None, *family.adapters]
    first = [run(engine, family, name, PROMPT) for name in names]
    assert [generation.cached_tokens for generation in first] == [0] * len(names)
    assert engine.statistics().found_tokens == 0
    second = [run(engine, family, name, PROMPT) for name in names]
    assert all(generation.cached_tokens == (len(PROMPT) - 1) // 4 * 4 for generation in second)
    for name, before, after in zip(names, first, second, strict=True):
        expected = family.greedy(name, PROMPT, 6, ignore_eos=True)
        assert before.result().token_ids == after.result().token_ids == expected


def test_two_versions_of_one_adapter_share_no_page(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4)
    for version in ("attention", "mlp"):
        lease = engine.residency.acquire(family.digest(version), family.adapters[version], name="ns/adapter")
        generation = engine.submit(Request(PROMPT, GREEDY, lease))
        while engine.step():
            pass
        assert generation.cached_tokens == 0
        assert generation.result().token_ids == family.greedy(version, PROMPT, 6, ignore_eos=True)


def test_the_answer_is_found_when_it_becomes_a_part_of_the_next_prompt(
    family: Family, engine_of: EngineFactory
) -> None:
    engine = engine_of(family, page_tokens=4)
    said = run(engine, family, None, PROMPT).result().token_ids
    longer = PROMPT + said + list(b"and then?")
    generation = run(engine, family, None, longer)
    assert generation.cached_tokens == (len(PROMPT) + len(said) - 1) // 4 * 4
    assert generation.result().token_ids == family.greedy(None, longer, 6, ignore_eos=True)


def test_what_was_least_recently_asked_is_given_up_for_new_sequences(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family, page_tokens=4, cache_bytes=16 * 3072)
    other = [200 - token for token in PROMPT]
    run(engine, family, None, PROMPT)
    run(engine, family, None, other)
    assert run(engine, family, None, PROMPT).cached_tokens < len(PROMPT) // 2
    assert engine.statistics().pages_used == 0


def test_keys_and_values_that_are_not_finite_are_never_found_again(
    family: Family, engine_of: EngineFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(family, page_tokens=4)
    healthy = engine.submit(Request(PROMPT, GREEDY))
    for _ in range(3):
        engine.step()
    forward = engine._runner.forward

    def poison(pieces: Any) -> torch.Tensor:
        return forward(pieces) * float("nan")

    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "forward", poison)
        engine.step()
    with pytest.raises(OperationFailed, match="not finite"):
        healthy.result(timeout=0)
    again = run(engine, family, None, PROMPT)
    assert again.cached_tokens == 0
    assert again.result().token_ids == family.greedy(None, PROMPT, 6, ignore_eos=True)
