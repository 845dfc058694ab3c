"""Recipes of slices: which layers come from where, with which parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from graftwork.errors import GraftworkError, IncompatibleModels, InvalidRecipe, UnknownParameter
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4}


def llama(folder: Path, seed: int, layers: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, num_hidden_layers=layers, num_key_value_heads=2, tie_word_embeddings=False)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model


def source(model: str, first: int, end: int, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "layer_range": [first, end], "parameters": parameters}


def merged(bench: Any, slices: list[dict[str, Any]], method: str = "linear", **more: Any) -> Any:
    return bench.merge(load_recipe({"merge_method": method, "slices": slices, **more}))


def layer(tensors: Any, index: int) -> Any:
    return tensors[f"model.layers.{index}.mlp.weight"].astype(np.float64)


def test_a_frankenmerge_computes_what_its_layers_in_a_row_compute(tmp_path: Path) -> None:
    first, second = llama(tmp_path / "a", 0), llama(tmp_path / "b", 1, layers=3)
    slices = [
        {"sources": [source(str(tmp_path / "a"), 0, 3)]},
        {"sources": [source(str(tmp_path / "b"), 1, 3)]},
        {"sources": [source(str(tmp_path / "a"), 2, 4)]},
    ]
    recipe = load_recipe({"merge_method": "passthrough", "slices": slices})
    folder = merge(recipe, out=tmp_path / "merged", settings=Settings())
    stacked = AutoModelForCausalLM.from_pretrained(folder)
    assert stacked.config.num_hidden_layers == 7
    expected = LlamaForCausalLM(LlamaConfig(**stacked.config.to_dict()))
    a, b = first.model.layers, second.model.layers
    weights = {
        "model.embed_tokens.weight": first.model.embed_tokens.weight,
        "model.norm.weight": first.model.norm.weight,
    }
    weights["lm_head.weight"] = first.lm_head.weight
    for index, block in enumerate([a[0], a[1], a[2], b[1], b[2], a[2], a[3]]):
        weights |= {f"model.layers.{index}.{name}": value for name, value in block.state_dict().items()}
    expected.load_state_dict(weights)
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(stacked(tokens).logits, expected(tokens).logits, rtol=0, atol=0)


def test_what_is_before_the_layers_is_the_first_slices_and_what_is_after_is_the_lasts(bench: Any) -> None:
    paths, (_, a, b) = bench.family(2)
    slices = [{"sources": [source(paths[1], 0, 1)]}, {"sources": [source(paths[2], 1, 3)]}]
    got = merged(bench, slices, "passthrough")
    np.testing.assert_array_equal(got["model.embed_tokens.weight"], a["model.embed_tokens.weight"])
    np.testing.assert_array_equal(got["model.norm.weight"], b["model.norm.weight"])
    np.testing.assert_array_equal(got["model.layers.0.mlp.weight"], a["model.layers.0.mlp.weight"])
    np.testing.assert_array_equal(got["model.layers.1.mlp.weight"], b["model.layers.1.mlp.weight"])
    assert len(got) == 7


def test_the_closest_level_holds(bench: Any) -> None:
    paths, (_, a, b) = bench.family(2)
    slices: list[dict[str, Any]] = [
        {"sources": [source(paths[1], 0, 1, weight=3), source(paths[2], 1, 2)], "parameters": {"weight": 1}},
        {"sources": [source(paths[1], 1, 3), source(paths[2], 1, 3, weight=[{"filter": "layers.2", "value": 6}])]},
    ]
    got = merged(bench, slices, parameters={"weight": 2})
    close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-7}
    np.testing.assert_allclose(layer(got, 0), (3 * layer(a, 0) + layer(b, 1)) / 4, **close)
    np.testing.assert_allclose(layer(got, 1), (layer(a, 1) + layer(b, 1)) / 2, **close)
    np.testing.assert_allclose(layer(got, 2), (2 * layer(a, 2) + 6 * layer(b, 2)) / 8, **close)


def test_the_modules_parameters_come_before_the_recipes(bench: Any) -> None:
    paths, _ = bench.family(1)
    tensors = bench.read(Path(paths[1]))
    module = {"models": [{"model": paths[1]}], "parameters": {"scale": [{"filter": "mlp", "value": 3}]}}
    recipe = {"merge_method": "passthrough", "modules": {"default": module}, "parameters": {"scale": 2}}
    got = bench.merge(load_recipe(recipe))
    np.testing.assert_array_equal(got["model.layers.1.mlp.weight"], 3 * tensors["model.layers.1.mlp.weight"])
    np.testing.assert_array_equal(got["model.norm.weight"], 2 * tensors["model.norm.weight"])


def test_gradients_run_over_each_slice_and_are_at_their_start_outside(bench: Any) -> None:
    paths, (_, a, _) = bench.family(2)
    slices = [
        {"sources": [source(paths[1], 0, 3)], "parameters": {"scale": [0, 1, 4]}},
        {"sources": [source(paths[1], 0, 1)], "parameters": {"scale": [5, 7]}},
    ]
    got = merged(bench, slices, "passthrough")
    for out, (layer_of, scale) in enumerate([(0, 0), (1, 1), (2, 4), (0, 7)]):
        np.testing.assert_allclose(layer(got, out), scale * layer(a, layer_of), rtol=1e-6)
    assert not got["model.embed_tokens.weight"].any()
    np.testing.assert_allclose(got["model.norm.weight"], 5 * a["model.norm.weight"], rtol=1e-6)


def test_a_slice_has_a_base_of_its_own(bench: Any) -> None:
    paths, (base, a, b) = bench.family(2)
    slices = [
        {"sources": [source(paths[0], 0, 2), source(paths[1], 0, 2)]},
        {"sources": [source(paths[1], 2, 3), source(paths[2], 2, 3)], "base_model": paths[1]},
    ]
    got = merged(bench, slices, "task_arithmetic", base_model=paths[0], parameters={"weight": 0.5})
    np.testing.assert_allclose(layer(got, 0), (layer(base, 0) + layer(a, 0)) / 2, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer(got, 2), (layer(a, 2) + layer(b, 2)) / 2, rtol=1e-6, atol=1e-7)


def test_lists_with_an_entry_a_layer_follow_the_layers(bench: Any) -> None:
    paths, _ = bench.family(1)
    config = {
        "num_hidden_layers": 3,
        "layer_types": ["full", "sliding", "last"],
        "text_config": {"num_hidden_layers": 3},
    }
    for path in paths:
        (Path(path) / "config.json").write_text(json.dumps(config))
    merged(bench, [{"sources": [source(paths[0], 1, 3)]}, {"sources": [source(paths[1], 0, 3)]}], "passthrough")
    told = json.loads((bench.root / "merged" / "config.json").read_text())
    assert told["num_hidden_layers"] == told["text_config"]["num_hidden_layers"] == 5
    assert told["layer_types"] == ["sliding", "last", "full", "sliding", "last"]


@pytest.mark.parametrize(
    ("sources", "error", "said"),
    [
        ([("1", 0, 4)], InvalidRecipe, r"slices\[0\]: layers 0 to 3 of .*, which has 3"),
        ([("1", 0, 2), ("2", 0, 3)], InvalidRecipe, "the same number of layers; these give .2, 3."),
        ([("1", 2, 2)], InvalidRecipe, "first < end"),
        ([], InvalidRecipe, r"slices\[0\].sources"),
    ],
)
def test_impossible_slices_are_refused(
    bench: Any, sources: list[tuple[str, int, int]], error: type[GraftworkError], said: str
) -> None:
    paths, _ = bench.family(2)
    listed = [source(paths[int(model)], first, end) for model, first, end in sources]
    with pytest.raises(error, match=said):
        merged(bench, [{"sources": listed}])


def test_parameters_of_a_source_are_checked_with_their_place(bench: Any) -> None:
    paths, _ = bench.family(1)
    with pytest.raises(UnknownParameter, match=r"slices\[0\]\.sources\[0\]\.parameters"):
        merged(bench, [{"sources": [source(paths[1], 0, 3, wieght=1)]}])


def test_layers_of_other_tensors_and_tensors_that_no_slice_covers_are_refused(bench: Any) -> None:
    paths, (base, _) = bench.family(1)
    other = bench.write("other", {**base, "model.layers.1.extra": np.zeros(3, np.float32)})
    headed = bench.write("headed", {**base, "extra_head.weight": np.zeros(3, np.float32)})
    with pytest.raises(IncompatibleModels, match=r"layer 1 .* has '\.extra'"):
        merged(bench, [{"sources": [source(paths[1], 0, 3), source(other, 0, 3)]}])
    with pytest.raises(IncompatibleModels, match="extra_head"):
        merged(bench, [{"sources": [source(paths[1], 0, 3)]}, {"sources": [source(headed, 0, 3)]}])


def test_a_delta_method_needs_its_base_among_the_sources(bench: Any) -> None:
    paths, _ = bench.family(1)
    recipe = {"merge_method": "ties", "base_model": paths[0], "slices": [{"sources": [source(paths[1], 0, 3)]}]}
    with pytest.raises(InvalidRecipe, match=r"slices\[0\]\.sources: the base .* must be one of the sources"):
        plan(load_recipe(recipe), settings=Settings())
