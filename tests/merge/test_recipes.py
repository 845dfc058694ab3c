"""What a recipe may say, and how it is told that it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import (
    GraftworkError,
    InvalidParameter,
    InvalidRecipe,
    SourceNotFound,
    UnknownMethod,
    UnknownParameter,
)
from graftwork.merge.method import find_method, methods
from graftwork.merge.models.layers import depth_of, find_blocks
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.recipe.recipe import digest, load_recipe
from graftwork.settings import Settings

RECIPE = """
merge_method: ties
base_model: acme/base
models:
  - model: acme/maths@v3
    parameters: {weight: 0.5, density: [0.2, 0.8]}
  - model: hf:org/code@main
    parameters:
      weight:
        - {filter: mlp, value: [0, 1]}
        - value: 0.3
parameters: {lambda: 1.1, normalize: true, int8_mask: true}
dtype: bfloat16
out_dtype: float16
tokenizer_source: base
modifiers: [{lines: {alpha: auto, beta: 0.5}}]
output: {name: acme/merged, aliases: [candidate], shard_size: 2GB}
seed: 7
"""


def planned_parameters(bench: Any, method: str, per_model: list[dict[str, Any]], parameters: dict[str, Any]) -> Any:
    paths, _ = bench.family(len(per_model))
    recipe = bench.recipe(method, paths, per_model=per_model, parameters=parameters)
    laid_out = plan(recipe, settings=Settings())
    laid_out.close()
    assert isinstance(laid_out, Plan)
    return {tensor.name: tensor.method for tensor in laid_out.tensors}


def test_a_mergekit_recipe_with_our_keys_is_read() -> None:
    recipe = load_recipe(RECIPE)
    assert recipe.models[1].model == "hf:org/code@main"
    assert recipe.output.shard_bytes == 2_000_000_000
    assert load_recipe(recipe.as_yaml()).models == recipe.models


def test_the_digest_does_not_depend_on_how_the_recipe_is_written() -> None:
    recipe = load_recipe(RECIPE)
    reordered = load_recipe(json.dumps(dict(reversed(recipe.model_dump().items()))))
    renamed = load_recipe(RECIPE.replace("acme/merged", "acme/other"))
    assert digest(recipe) == digest(reordered) == digest(renamed)
    assert digest(recipe) != digest(load_recipe(RECIPE.replace("seed: 7", "seed: 8")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("merge_method: ties", "merge_methods: ties"),
            r"at merge_methods: there is no such key; .*did you mean merge_method\?",
        ),
        (("merge_method: ties\n", ""), r"at merge_method: it is required"),
        (("seed: 7", "seed: 7\nseed: 8"), "the key 'seed' is given twice, in line 18 and 19"),
        (("seed: 7", "sed: 7"), r"at sed: there is no such key; .*did you mean seed\?"),
        (("parameters: {weight: 0.5", "parametres: {weight: 0.5"), r"models\[0\].parametres: .*mean parameters\?"),
        (("parameters: {weight: 0.5", "weight: 1\n    parameters: {weight: 0.5"), "takes goes under parameters"),
        (("beta: 0.5", "gamma: 0.5"), r"modifiers\[0\].lines"),
        (("shard_size: 2GB", "shard_size: big"), r"output.shard_size"),
        (("dtype: bfloat16", "dtype: int8"), r"at dtype"),
        (("seed: 7", "slices: [{sources: []}]"), r"at slices\[0\].sources"),
        (("seed: 7", "tokenizer: {source: union}"), "tokenizer_source and tokenizer say the same"),
        (("seed: 7", "seed: 7\n---\na: 1"), "at a: there is no such key"),
        (("seed: 7", "modules: {text: {}, vision: {}}"), "at modules: only the module 'default' is supported"),
        (("seed: 7", "compat: other"), "at compat: .*'mergekit'"),
        (("seed: 7", "seed: ]"), "the YAML"),
        (("lambda: 1.1", "lambda: " + "[" * 63 + "]" * 63), "nested more than 64 levels deep"),
    ],
)
def test_what_a_recipe_may_not_say_is_named(change: tuple[str, str], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        load_recipe(RECIPE.replace(*change))


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "merge_method: ties\nmodels: []"])
def test_what_is_not_a_recipe_is_refused(text: str) -> None:
    with pytest.raises(InvalidRecipe):
        load_recipe(text)


def test_a_recipe_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("per_model", "parameters", "error", "said"),
    [
        ({}, {"densty": 0.5}, UnknownParameter, r"ties has no parameter 'densty' .*did you mean density\?"),
        ({"weigth": 1}, {}, UnknownParameter, r"at models\[0\]\.parameters.*did you mean weight\?"),
        ({"density": -1}, {}, InvalidParameter, r"'density' at models\[0\]\.parameters\.density is -1: .*equal to 0"),
        ({"density": 2}, {}, InvalidParameter, "is 2: .*less than or equal to 1"),
        ({}, {"density": -1}, InvalidParameter, "is -1"),
        ({}, {"density": "most"}, InvalidParameter, "is 'most'"),
        ({}, {"density": True}, InvalidParameter, "is True"),
        ({}, {"weight": float("nan")}, InvalidParameter, "is nan"),
        ({}, {"density": [0.5, 3]}, InvalidParameter, r"parameters\.density\[1\] is 3"),
        ({}, {"density": []}, InvalidParameter, "must not be empty"),
        ({}, {"density": [{"filter": "mlp", "value": 7}]}, InvalidParameter, r"density\[0\]\.value is 7"),
        ({}, {"density": [{"filtre": "mlp", "value": 1}]}, InvalidParameter, r"\{filter: \.\.\., value: \.\.\.\}"),
        ({}, {"variant": "other"}, InvalidParameter, "'mergekit' or 'paper'"),
        ({}, {"normalize": [True, False]}, InvalidParameter, "a list of numbers"),
        ({"lambda": 0.5}, {}, InvalidRecipe, "lambda holds for the whole merge"),
    ],
)
def test_parameters_are_checked_with_their_place(
    bench: Any, per_model: dict[str, Any], parameters: dict[str, Any], error: type[GraftworkError], said: str
) -> None:
    with pytest.raises(error, match=said):
        planned_parameters(bench, "ties", [per_model], parameters)


def test_a_required_parameter_that_is_missing_is_named(bench: Any) -> None:
    with pytest.raises(InvalidRecipe, match="slerp needs t, and none is given for model"):
        planned_parameters(bench, "slerp", [{}], {"t": [{"filter": "mlp", "value": 0.5}]})


def test_a_model_overrides_the_recipe_and_filters_fall_through(bench: Any) -> None:
    found = planned_parameters(
        bench, "ties", [{"density": [{"filter": "mlp", "value": 0.1}]}, {}], {"density": 0.5, "weight": 2}
    )
    assert found["model.layers.0.mlp.weight"].density == (0.1, 0.5)
    assert found["model.norm.weight"].density == (0.5, 0.5)
    assert found["model.norm.weight"].weight == (2, 2)


def test_a_gradient_goes_from_the_first_block_to_the_last(bench: Any) -> None:
    found = planned_parameters(bench, "ties", [{"weight": [0, 1, 0.5]}], {})
    weights = {name: method.weight[0] for name, method in found.items()}
    assert [weights[f"model.layers.{layer}.mlp.weight"] for layer in range(3)] == [0, 1, 0.5]
    assert (weights["model.embed_tokens.weight"], weights["model.norm.weight"]) == (0, 0)


def test_blocks_are_found_by_their_container() -> None:
    names = [
        "transformer.h.5.mlp.0.weight",
        "encoder.block.1.layer.0.weight",
        "visual.resblocks.11.ln.bias",
        "head.2.weight",
        "model.layers.0.w",
        "model.norm.weight",
    ]
    blocks = find_blocks(names)
    assert {name: (block.index, block.count) for name, block in blocks.items()} == {
        "transformer.h.5.mlp.0.weight": (5, 6),
        "encoder.block.1.layer.0.weight": (1, 2),
        "visual.resblocks.11.ln.bias": (11, 12),
        "model.layers.0.w": (0, 1),
    }
    assert depth_of("model.layers.0.w", blocks) == 1.0
    assert depth_of("model.embed_tokens.weight", blocks) == 0.0


def test_numbers_that_yaml_takes_for_text_and_single_filters_are_read(bench: Any) -> None:
    recipe = load_recipe("{merge_method: linear, models: [{model: x}], parameters: {weight: 1e-3}}")
    assert recipe.parameters == {"weight": "1e-3"}
    found = planned_parameters(bench, "ties", [{"weight": {"filter": "mlp", "value": "1e-3"}}], {"density": ".5"})
    assert found["model.layers.0.mlp.weight"].weight == (0.001,)
    assert found["model.norm.weight"].weight == (1.0,)
    assert found["model.norm.weight"].density == (0.5,)


def test_compat_is_part_of_the_digest_and_reaches_methods_that_have_quirks(bench: Any) -> None:
    paths, _ = bench.family(3)
    recipes = [bench.recipe("model_stock", paths, **more) for more in ({}, {"compat": "mergekit"})]
    assert digest(recipes[0]) != digest(recipes[1])
    for recipe, expected in zip(recipes, (False, True), strict=True):
        laid_out = plan(recipe, settings=Settings())
        laid_out.close()
        assert isinstance(laid_out, Plan)
        assert {tensor.method.compat_ for tensor in laid_out.tensors} == {expected}
    assert "compat_" not in find_method("model_stock").schema()["properties"]


def test_a_base_that_is_not_among_the_models_joins_them_only_in_compat(bench: Any) -> None:
    paths, (base, a) = bench.family(1)
    name = "model.layers.0.mlp.weight"
    alone = bench.merge(bench.recipe("linear", paths, parameters={"weight": 1}))
    joined = bench.merge(bench.recipe("linear", paths, parameters={"weight": 1}, compat="mergekit"), "joined")
    assert (alone[name] == a[name]).all()
    assert abs(joined[name] - (base[name] + a[name]) / 2).max() < 1e-6


def test_models_of_different_precision_give_the_one_that_holds_both(bench: Any) -> None:
    paths = [bench.write(dtype, bench.random(1, dtype)) for dtype in ("BF16", "F16", "F32")]
    for chosen, expected in (([0, 0], "BF16"), ([0, 1], "F32"), ([1, 2], "F32")):
        laid_out = plan(bench.recipe("linear", [paths[place] for place in chosen], base=False), settings=Settings())
        laid_out.close()
        assert isinstance(laid_out, Plan)
        assert {tensor.dtype for tensor in laid_out.tensors} == {expected}


def test_an_unknown_method_is_named_with_the_closest() -> None:
    with pytest.raises(UnknownMethod, match=r"did you mean task_arithmetic\?"):
        find_method("task_aritmetic")


@pytest.mark.parametrize("name", methods())
def test_every_method_describes_itself(name: str) -> None:
    method = methods()[name]
    assert method.cites.startswith("https://")
    assert method.summary.endswith(".")
    assert set(method.schema()["properties"]) == set(method.parameters)
    assert all(f"{parameter}:" in method.description for parameter in method.parameters)


@pytest.mark.parametrize(
    ("method", "count", "said"),
    [("slerp", 3, "exactly|takes 1 model besides the base; there are 2"), ("passthrough", 3, "takes 1 model;")],
)
def test_a_wrong_number_of_models_is_refused(bench: Any, method: str, count: int, said: str) -> None:
    paths, _ = bench.family(count - 1)
    parameters = {"t": 0.5} if method == "slerp" else {}
    with pytest.raises(InvalidRecipe, match=said):
        plan(bench.recipe(method, paths, parameters=parameters), settings=Settings())


def test_a_base_listed_among_the_models_is_not_an_input(bench: Any) -> None:
    paths, _ = bench.family(1)
    recipe = bench.recipe("slerp", [paths[0], *paths], parameters={"t": 0.5})
    laid_out = plan(recipe, settings=Settings())
    laid_out.close()
    assert [origin.label for origin in laid_out.models] == [paths[1]]


@pytest.mark.parametrize("model", ["acme/nothing", "/nowhere/at/all", "hf:not a repository"])
def test_a_model_that_is_not_there_is_named(bench: Any, model: str) -> None:
    paths, _ = bench.family(1)
    with pytest.raises(GraftworkError, match=model):
        plan(bench.recipe("ties", [paths[0], model]), settings=Settings())


def test_a_delta_method_needs_a_base(bench: Any) -> None:
    paths, _ = bench.family(1)
    with pytest.raises(InvalidRecipe, match="ties needs a base_model"):
        plan(bench.recipe("ties", paths, base=False), settings=Settings())


@pytest.mark.parametrize(("given", "means"), [(1, True), (0.0, False), ("true", True), ("False", False), (True, True)])
def test_a_flag_may_be_a_number_as_in_mergekits_model_cards(bench: Any, given: object, means: bool) -> None:
    found = planned_parameters(bench, "ties", [{}, {}], {"normalize": given, "int8_mask": given})
    assert {method.normalize for method in found.values()} == {means}


def test_a_number_that_is_no_flag_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"'normalize' .* is 2"):
        planned_parameters(bench, "ties", [{}, {}], {"normalize": 2})


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"merge_method": "linear", "models": {"model": "a"}}, "at models: expected a list"),
        ({"base_model": "a", "gate_mode": "hidden", "experts": []}, r"at experts: a mixture of experts .*mergekit-moe"),
        (
            {"merge_method": "linear", "slices": [{"sources": [{"model": "a", "layer_range": "0-4"}]}]},
            r"\[first, end\]",
        ),
    ],
)
def test_recipes_for_what_there_is_not_are_told_so(recipe: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRecipe, match=reason):
        load_recipe(recipe)


def test_an_id_of_the_hub_is_told_as_it_is_written_here(bench: Any) -> None:
    with pytest.raises(
        SourceNotFound, match=r"or hf:ORG/NAME\[@REVISION\], here hf:mistralai/Mistral-7B-v0\.1@main\.$"
    ):
        plan(bench.recipe("linear", ["mistralai/Mistral-7B-v0.1@main"], base=False), settings=Settings())
    with pytest.raises(SourceNotFound, match=r"\[@REVISION\]\.$"):
        plan(bench.recipe("linear", ["./not/there"], base=False), settings=Settings())
