"""Whatever else is in the batch, a request's tokens are those of transformers on the merged weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.kernels.dispatch import forced
from tests.adapters.conftest import write_lora

if TYPE_CHECKING:
    from pathlib import Path

    from tests.adapters.conftest import EngineFactory, Family


def drain(engine: Engine) -> None:
    while engine.step():
        pass


def prompts(count: int, seed: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(256) for _ in range(rng.choice([1, 2, 5, 13, 30, longest]))] for _ in range(count)]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral", "gpt2", "bert"])
def test_a_mixed_batch_with_continuous_arrivals_is_token_exact(
    architecture: str, family_of: Callable[[str], Family], engine_of: EngineFactory
) -> None:
    family = family_of(architecture)
    engine = engine_of(family)
    names = [None, *family.adapters]
    rng = random.Random(3)
    asked: list[tuple[str | None, list[int], int, Generation]] = []
    for index, prompt in enumerate(prompts(20, seed=5)):
        name, tokens = names[index % len(names)], rng.randint(1, 20)
        greedy = Sampling(max_tokens=tokens, temperature=0)
        asked.append((name, prompt, tokens, engine.submit(Request(prompt, greedy, family.lease(engine, name)))))
        for _ in range(rng.randint(0, 3)):
            engine.step()
    drain(engine)
    for name, prompt, tokens, generation in asked:
        assert generation.result().token_ids == family.greedy(name, prompt, tokens), (name, len(prompt))


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "phi3", "mixtral"])
def test_models_of_other_parts_are_token_exact(
    architecture: str, family_of: Callable[[str], Family], engine_of: EngineFactory
) -> None:
    """Norms of heads, another activation, fused projections, experts."""
    family = family_of(architecture)
    engine = engine_of(family)
    names = [None, "mlp" if "mlp" in family.adapters else "attention"]
    asked = [(name, prompt) for prompt in prompts(3, seed=8) for name in names]
    greedy = Sampling(max_tokens=7, temperature=0)
    generations = [engine.submit(Request(prompt, greedy, family.lease(engine, name))) for name, prompt in asked]
    drain(engine)
    for (name, prompt), generation in zip(asked, generations, strict=True):
        assert generation.result().token_ids == family.greedy(name, prompt, 7)


def test_the_adapters_of_the_tests_change_what_the_base_says(family_of: Callable[[str], Family]) -> None:
    for architecture in ("llama", "qwen2", "mistral", "gpt2", "bert"):
        family = family_of(architecture)
        answers = [tuple(family.greedy_cached(name, [1, 2, 3], 12)) for name in [None, *family.adapters]]
        assert len(set(answers)) == len(answers)


def test_one_prompt_under_every_adapter_at_once(family: Family, engine_of: EngineFactory) -> None:
    engine = engine_of(family)
    prompt, greedy = list(b"the same prompt for all of them"), Sampling(max_tokens=12, temperature=0)
    names = [None, *family.adapters]
    generations = [engine.submit(Request(prompt, greedy, family.lease(engine, name))) for name in names]
    drain(engine)
    for name, generation in zip(names, generations, strict=True):
        assert generation.result().token_ids == family.greedy(name, prompt, 12)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_without_native_kernels_the_answers_are_the_same(
    architecture: str, family_of: Callable[[str], Family], engine_of: EngineFactory
) -> None:
    family = family_of(architecture)
    asked = [(name, prompt) for prompt in prompts(2, seed=6) for name in [None, "everything"]]
    greedy = Sampling(max_tokens=7, temperature=0)
    with forced("reference"):
        engine = engine_of(family, page_tokens=4)
        generations = [engine.submit(Request(prompt, greedy, family.lease(engine, name))) for name, prompt in asked]
        drain(engine)
    for (name, prompt), generation in zip(asked, generations, strict=True):
        assert generation.result().token_ids == family.greedy(name, prompt, 7)


def test_a_place_that_is_used_again_keeps_nothing_of_its_last_sequence(
    family: Family, engine_of: EngineFactory
) -> None:
    engine = engine_of(family, max_sequences=1)
    asked = [(name, prompt) for prompt in prompts(3, seed=2) for name in [None, "everything"]]
    greedy = Sampling(max_tokens=7, temperature=0)
    generations = [engine.submit(Request(prompt, greedy, family.lease(engine, name))) for name, prompt in asked]
    drain(engine)
    for (name, prompt), generation in zip(asked, generations, strict=True):
        assert generation.result().token_ids == family.greedy(name, prompt, 7)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "cohere"])
def test_norms_of_each_head_are_replaced_for_their_adapter_alone(
    architecture: str, family_of: Callable[[str], Family], engine_of: EngineFactory, tmp_path: Path
) -> None:
    """One sees [rows, heads], another [heads, rows], a third has weights of its own for each head."""
    family = family_of(architecture)
    options = {"r": 2, "target_modules": ["v_proj"], "modules_to_save": ["q_norm", "k_norm"]}
    folder = write_lora(family.base, tmp_path / "norms", options, seed=9)
    saved = load_file(folder / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(4)
    for name in (name for name in saved if "_norm" in name):
        saved[name] += torch.randn(saved[name].shape, generator=generator)
    save_file(saved, folder / "adapter_model.safetensors", {"format": "pt"})
    both = replace(family, adapters={**family.adapters, "norms": folder}, _models={}, _answers={})
    engine, greedy = engine_of(family), Sampling(max_tokens=10, temperature=0)
    asked = [(name, prompt) for prompt in prompts(3, seed=8) for name in ("norms", None, "attention")]
    generations = [engine.submit(Request(prompt, greedy, both.lease(engine, name))) for name, prompt in asked]
    drain(engine)
    for (adapter, prompt), generation in zip(asked, generations, strict=True):
        assert generation.result().token_ids == both.greedy(adapter, prompt, 10), adapter
    without = replace(both, adapters={**both.adapters, "norms": family.adapters["attention"]}, _models={})
    assert without.greedy("norms", asked[0][1], 10) != generations[0].result().token_ids
