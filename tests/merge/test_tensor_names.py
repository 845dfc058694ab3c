"""Checkpoints of one architecture that call their tensors differently, or hold more than its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.errors import IncompatibleModels
from graftwork.merge.extract.extraction import plan_extraction
from graftwork.merge.models.sources import Finder
from graftwork.settings import Settings

NAMES = ("embed_tokens.weight", "layers.0.mlp.up_proj.weight", "layers.0.LayerNorm.weight", "layers.0.LayerNorm.bias")


def weights(seed: int, spelt: Callable[[str], str]) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {spelt(name): random.normal(size=(6, 4)).astype("f4") for name in NAMES}


def with_prefix(name: str) -> str:
    return f"model.{name}"


def without_prefix(name: str) -> str:
    return name


def of_old(name: str) -> str:
    return with_prefix(name).replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def configure(path: str, **settings: object) -> None:
    (Path(path) / "config.json").write_text(json.dumps({"model_type": "llama", **settings}))


@pytest.mark.parametrize("first", [with_prefix, without_prefix, of_old])
@pytest.mark.parametrize("second", [with_prefix, without_prefix, of_old])
def test_one_tensor_under_two_names_is_one(bench: Any, first: Any, second: Any) -> None:
    ours, theirs = weights(1, first), weights(2, second)
    paths = [bench.write("ours", ours), bench.write("theirs", theirs)]
    result = bench.merge(bench.recipe("linear", paths, base=False))
    assert result.keys() == ours.keys()
    for name in NAMES:
        np.testing.assert_allclose(result[first(name)], (ours[first(name)] + theirs[second(name)]) / 2, rtol=1e-6)


@pytest.mark.parametrize("turned", [False, True])
def test_buffers_that_one_release_saved_are_left_out(bench: Any, turned: bool) -> None:
    plain, more = weights(1, with_prefix), weights(2, with_prefix)
    more["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, "f4")
    more["model.layers.0.attn.bias"] = np.ones((1, 1, 3, 3), "f4")
    more["model.embeddings.position_ids"] = np.arange(5)[None]
    paths = [bench.write("plain", plain), bench.write("more", more)]
    result = bench.merge(bench.recipe("linear", paths[::-1] if turned else paths, base=False))
    assert result.keys() == plain.keys()


def test_a_buffer_that_all_have_stays(bench: Any) -> None:
    both = [weights(seed, with_prefix) | {"model.rotary_emb.inv_freq": np.ones(4, "f4")} for seed in (1, 2)]
    paths = [bench.write("a", both[0]), bench.write("b", both[1])]
    assert bench.merge(bench.recipe("linear", paths, base=False)).keys() == both[0].keys()


def test_a_bias_is_no_buffer(bench: Any) -> None:
    more = weights(2, with_prefix) | {"model.layers.0.attn.bias": np.ones(4, "f4")}
    paths = [bench.write("plain", weights(1, with_prefix)), bench.write("more", more)]
    with pytest.raises(IncompatibleModels, match=r"attn\.bias"):
        bench.merge(bench.recipe("linear", paths, base=False))


@pytest.mark.parametrize("turned", [False, True])
def test_a_tied_head_that_only_some_store_is_left_out(bench: Any, turned: bool) -> None:
    plain, stored = weights(1, with_prefix), weights(2, with_prefix)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    paths = [bench.write("plain", plain), bench.write("stored", stored)]
    for path in paths:
        configure(path, tie_word_embeddings=True)
    result = bench.merge(bench.recipe("linear", paths[::-1] if turned else paths, base=False))
    assert result.keys() == plain.keys()


@pytest.mark.parametrize("said", [{}, {"tie_word_embeddings": False}])
def test_a_head_that_is_not_said_to_be_tied_is_missed(bench: Any, said: dict[str, object]) -> None:
    stored = weights(2, with_prefix)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"]
    paths = [bench.write("bare", weights(1, without_prefix)), bench.write("stored", stored)]
    for path in paths:
        configure(path, **said)
    with pytest.raises(IncompatibleModels, match=r"'lm_head\.weight' is missing there"):
        bench.merge(bench.recipe("linear", paths, base=False))


def test_a_fine_tune_is_taken_apart_under_the_names_of_its_base(bench: Any) -> None:
    base, tuned = bench.write("base", weights(1, without_prefix)), bench.write("tuned", weights(2, of_old))
    find = Finder().find
    found = plan_extraction(find(tuned), find(base), rank=None, dtype="model", seed=0, settings=Settings())
    assert sorted(part.name for part in found.parts) == sorted(NAMES)
