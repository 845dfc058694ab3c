"""When two configurations are of one model, and what the output's configuration says of what was merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.errors import IncompatibleModels, InvalidRecipe

OLD = {"rope_theta": 10000.0, "rope_scaling": None}
NEW = {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}}
SCALED = {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
SCALED_NEW = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2, "attention_factor": None}}
NESTED = {"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}}


def merged(bench: Any, ours: dict[str, Any], theirs: dict[str, Any], dtypes: tuple[str, str] = ("F32", "F32")) -> Any:
    paths = [bench.write(f"model-{number}", bench.random(number, dtype)) for number, dtype in enumerate(dtypes)]
    for path, config in zip(paths, (ours, theirs), strict=True):
        (Path(path) / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    bench.merge(bench.recipe("linear", paths, base=False))
    return json.loads((bench.root / "merged" / "config.json").read_text())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (OLD, NEW),
        (NEW, OLD),
        (SCALED, SCALED_NEW),
        ({}, OLD),
        ({}, NEW),
        ({"head_dim": None}, {"head_dim": 64}),
        (OLD, NESTED),
    ],
)
def test_what_releases_write_differently_is_the_same(bench: Any, ours: Any, theirs: Any) -> None:
    assert merged(bench, ours, theirs)["model_type"] == "llama"


@pytest.mark.parametrize(
    ("ours", "theirs", "key"),
    [
        ({"rope_theta": 1e6}, NEW, "rope_theta is 1000000.0 in the one and 10000"),
        (SCALED, NEW, "rope_type is 'linear' in the one and 'default'"),
        (OLD, SCALED, "rope_type is 'default' in the one and 'linear'"),
        (SCALED_NEW, {**SCALED, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "factor is 2"),
        (
            NESTED,
            {"rope_parameters": {"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}},
            "rope_parameters",
        ),
    ],
)
def test_another_rotary_embedding_is_another_model(bench: Any, ours: Any, theirs: Any, key: str) -> None:
    with pytest.raises(IncompatibleModels, match=key):
        merged(bench, ours, theirs)


@pytest.mark.parametrize(
    ("dtypes", "written"),
    [
        (("BF16", "F16"), "float32"),
        (("BF16", "F32"), "float32"),
        (("F32", "BF16"), "float32"),
        (("BF16", "BF16"), "bfloat16"),
    ],
)
def test_the_configuration_says_the_dtype_of_the_tensors(bench: Any, dtypes: tuple[str, str], written: str) -> None:
    said = {"BF16": "bfloat16", "F32": "float32"}[dtypes[0]]
    assert merged(bench, {"dtype": said}, {}, dtypes)["dtype"] == written


def test_a_size_that_is_no_vocabularys_is_not_taken_for_one(bench: Any) -> None:
    paths = [bench.write(f"labels-{count}", {"classifier.weight": np.zeros((count, 4), "f4")}) for count in (2, 3)]
    with pytest.raises(IncompatibleModels, match=r"\[2, 4\] in the one and \[3, 4\] in the other\.$"):
        bench.merge(bench.recipe("linear", paths, base=False))


def test_slices_of_two_vocabularies_make_no_model(bench: Any) -> None:
    def model(rows: int) -> dict[str, Any]:
        names = ("model.embed_tokens.weight", "model.layers.0.w", "model.layers.1.w", "lm_head.weight")
        return {name: np.ones((3 if "layers" in name else rows, 4), "f4") for name in names}

    paths = [bench.write("small", model(5)), bench.write("large", model(7))]
    slices = [{"sources": [{"model": path, "layer_range": [0, 2]}]} for path in paths]
    recipe = bench.recipe("passthrough", [], base=False, slices=slices)
    with pytest.raises(IncompatibleModels, match=r"head has 7 rows, and the embedding there 5; .*tokenizer"):
        bench.merge(recipe)


@pytest.mark.parametrize("listed", [False, True])
def test_a_layer_may_not_come_to_a_number_of_another_kind(bench: Any, listed: bool) -> None:
    kinds = ("mamba", "self_attn", "mamba", "self_attn")
    path = bench.write("hybrid", {f"model.layers.{i}.{kind}.w": np.ones(3, "f4") for i, kind in enumerate(kinds)})
    config = {"model_type": "jamba", "num_hidden_layers": 4, **({"layer_types": list(kinds)} if listed else {})}
    (Path(path) / "config.json").write_text(json.dumps(config))

    def recipe(*ranges: list[int]) -> Any:
        slices = [{"sources": [{"model": path, "layer_range": layers}]} for layers in ranges]
        return bench.recipe("passthrough", [], base=False, slices=slices)

    assert len(bench.merge(recipe([0, 4], [0, 2]), "in-step")) == 6
    if listed:
        assert len(bench.merge(recipe([0, 1], [2, 4]))) == 3
        return
    with pytest.raises(InvalidRecipe, match=r"slices\[1\]: layer 1 of the output would be of another kind"):
        bench.merge(recipe([0, 1], [2, 4]))
