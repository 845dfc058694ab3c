"""What is merged by both: every method of mergekit's, and every feature of its YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Recipe = dict[str, Any]
RANDOM = "random masks; compared where they keep everything"
EQUALS = "mergekit's unstable sort chooses among equal magnitudes, of which bfloat16 has many"
LENDS = "a base_model that is not among the models only lends its configuration"
SIGNED = "mergekit divides by the signed sum of the weights, near 0 for mixed signs"
OUTLIERS = "mergekit drops no outliers where density is 1"
ROUNDED = "mergekit rounds the merged adapter to the model's dtype"
WEIGHTS = (0.5, 0.3, 0.7)


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe; where `differs` says why ours is another by default, `compat: mergekit` must agree."""

    name: str
    recipe: Recipe
    differs: str = ""
    never: str = ""
    """Why even `compat: mergekit` is another."""
    is_by_size: bool = False
    """Whether it selects by magnitude: mergekit chooses among equals at random, of which bfloat16 has many."""
    note: str = ""

    def excuse(self, dtype: str) -> str:
        """Why both, the default and `compat: mergekit`, may differ for inputs of a dtype."""
        return self.never or (EQUALS if self.is_by_size and dtype == "bfloat16" else "")


def cases(models: Mapping[str, str], dtype: str) -> list[Case]:
    """Every case, with the models' references."""
    return [*_methods(models), *_features(models, dtype)]


def _methods(models: Mapping[str, str]) -> list[Case]:
    def deltas(method: str, *, mixed: bool = False, **parameters: Any) -> Recipe:
        weights = (0.5, -0.3, 0.7) if mixed else WEIGHTS
        entries = [
            {"model": models[key], "parameters": {"weight": weight}} for key, weight in zip("abc", weights, strict=True)
        ]
        return _with(method, entries, models["base"], {name.rstrip("_"): value for name, value in parameters.items()})

    def dropped(method: str, **parameters: Any) -> Recipe:
        """With one model that adds nothing, and nothing left to chance."""
        recipe = deltas(method, density=1.0, **parameters)
        recipe["models"][1]["parameters"]["density"] = 0
        return recipe

    def plain(method: str, keys: str, *, base: bool = True, **parameters: Any) -> Recipe:
        return _with(method, [{"model": models[key]} for key in keys], models["base"] if base else None, parameters)

    weighted = [
        {"model": models[key], "parameters": {"weight": weight}} for key, weight in zip("abc", WEIGHTS, strict=True)
    ]
    pair = weighted[:2]
    return [
        Case("linear", _with("linear", weighted, None, {})),
        Case("linear raw", _with("linear", weighted, None, {"normalize": False})),
        Case("slerp", plain("slerp", "a", t=0.3)),
        Case("nuslerp", _with("nuslerp", pair, None, {})),
        Case("nuslerp base", _with("nuslerp", pair, models["base"], {})),
        Case(
            "nuslerp rows",
            _with("nuslerp", pair, None, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
            differs="mergekit has rows and columns the other way round",
        ),
        Case(
            "nuslerp columns",
            _with("nuslerp", pair, None, {"nuslerp_flatten": False}),
            differs="mergekit has rows and columns the other way round",
        ),
        Case("multislerp", _with("multislerp", weighted, None, {}), differs="mergekit's tangent term is always zero"),
        Case(
            "multislerp base",
            _with("multislerp", weighted, models["base"], {}),
            differs="mergekit's tangent term is always zero",
        ),
        Case("karcher", plain("karcher", "abc", base=False)),
        Case("passthrough", plain("passthrough", "a", base=False)),
        Case("passthrough scale", plain("passthrough", "a", base=False, scale=0.5)),
        Case("task_arithmetic", deltas("task_arithmetic")),
        Case("task_arithmetic lambda", deltas("task_arithmetic", lambda_=0.4)),
        Case("ties", deltas("ties", density=0.2), is_by_size=True),
        Case(
            "ties mixed",
            deltas("ties", mixed=True, density=0.2),
            differs=SIGNED,
            is_by_size=True,
        ),
        Case("ties raw", deltas("ties", density=0.5, normalize=False, lambda_=0.8), is_by_size=True),
        Case("dare_linear", deltas("dare_linear", density=1.0), note=RANDOM),
        Case("dare_ties", deltas("dare_ties", density=1.0), note=RANDOM),
        Case("della", deltas("della", density=1.0, epsilon=0.0), note=RANDOM),
        Case("della_linear", deltas("della_linear", density=1.0, epsilon=0.0), note=RANDOM),
        Case("breadcrumbs", deltas("breadcrumbs", density=0.7, gamma=0.05), is_by_size=True),
        Case("breadcrumbs_ties", deltas("breadcrumbs_ties", density=0.7, gamma=0.05), is_by_size=True),
        Case("ties without one", dropped("ties")),
        Case("dare_linear without one", dropped("dare_linear")),
        Case("dare_ties without one", dropped("dare_ties")),
        Case("della without one", dropped("della")),
        Case("breadcrumbs without one", dropped("breadcrumbs", gamma=0.0)),
        Case("breadcrumbs all", deltas("breadcrumbs", density=1.0, gamma=0.05), differs=OUTLIERS),
        Case("breadcrumbs_ties mixed", deltas("breadcrumbs_ties", mixed=True, normalize=True), SIGNED, is_by_size=True),
        Case("dare_ties mixed", deltas("dare_ties", mixed=True, normalize=True), differs=SIGNED),
        Case("della mixed", deltas("della", mixed=True, epsilon=0.0), differs=SIGNED),
        Case("model_stock", plain("model_stock", "abc"), differs="mergekit leaves the ratio unclamped below"),
        Case(
            "model_stock filters",
            plain("model_stock", "abc", filter_wise=True),
            differs="mergekit leaves the ratio unclamped below",
        ),
        Case("nearswap", plain("nearswap", "a", t=0.001)),
        Case(
            "arcee_fusion",
            plain("arcee_fusion", "a"),
            never="mergekit takes quartiles of a random sample, and loses small divergences in float32",
        ),
        Case("sce", plain("sce", "abc", select_topk=0.3), is_by_size=True),
        Case("sce all", plain("sce", "abc")),
        Case("ram", plain("ram", "abc")),
        Case("ramplus_tl", plain("ramplus_tl", "abc")),
    ]


def _features(models: Mapping[str, str], dtype: str) -> list[Case]:
    def source(key: str, first: int, end: int, **parameters: Any) -> Recipe:
        extra = {"parameters": parameters} if parameters else {}
        return {"model": models[key], "layer_range": [first, end], **extra}

    gradient = {
        "t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.4}]
    }
    franken = [{"sources": [source("base", 0, 3)]}, {"sources": [source("a", 1, 4)]}]
    levels: list[Recipe] = [
        {"sources": [source("a", 0, 2, weight=0.9), source("b", 0, 2)], "parameters": {"weight": 0.2}},
        {"sources": [source("a", 2, 4), source("b", 1, 3, weight=[0, 1])]},
    ]
    union = [
        {"model": models["a"], "parameters": {"weight": 1}},
        {"model": models["other"], "parameters": {"weight": 3}},
    ]
    zero = {"kind": "zero"}
    swapped = {"kind": "model_token", "model": models["a"], "token": "word5"}
    tokens = {"new0": {"source": zero}, "new1": {"source": swapped}, "word3": {"source": models["a"], "force": True}}
    both = [{"sources": [source("base", 0, 4), source("a", 0, 4)]}]
    lent = _with("linear", union, models["base"], {"weight": 1})
    joined = _with("linear", union, None, {})
    one = _with("linear", union[:1], None, {})
    adapted = _with("linear", [{"model": models["adapted"], "parameters": {"weight": 1}}], None, {})
    tokenizer = {"source": "union", "tokens": tokens, "pad_to_multiple_of": 16}
    module = {"models": union[:1], "parameters": {"weight": 2}}
    rounded = ROUNDED if dtype == "bfloat16" else ""
    return [
        Case("gradient and filters", _with("slerp", [{"model": models["a"]}], models["base"], gradient)),
        Case("gradient in a slice", _sliced("slerp", both, models["base"], gradient)),
        Case("frankenmerge", _sliced("passthrough", franken, None, {})),
        Case("precedence", _sliced("linear", levels, None, {"weight": 0.5})),
        Case("module", {"merge_method": "linear", "modules": {"default": module}}),
        Case("base left in", _with("linear", union[:1], models["base"], {"weight": 1}), differs=LENDS),
        Case("bf16 out", {**one, "out_dtype": "bfloat16"}),
        Case("base+lora", adapted, never=rounded),
        Case("tokenizer base", {**lent, "tokenizer_source": "base"}, differs=LENDS),
        Case("tokenizer union", {**joined, "tokenizer": {"source": "union"}}),
        Case("tokenizer model", {**joined, "tokenizer_source": models["other"]}),
        Case("tokenizer tokens", {**_with("task_arithmetic", union, models["base"], {}), "tokenizer": tokenizer}),
    ]


def _with(method: str, entries: list[Recipe], base: str | None, parameters: Mapping[str, Any]) -> Recipe:
    return {"models": entries, **_rest(method, base, parameters)}


def _sliced(method: str, slices: list[Recipe], base: str | None, parameters: Mapping[str, Any]) -> Recipe:
    return {"slices": slices, **_rest(method, base, parameters)}


def _rest(method: str, base: str | None, parameters: Mapping[str, Any]) -> Recipe:
    recipe: Recipe = {"merge_method": method, "dtype": "float32"}
    if base is not None:
        recipe["base_model"] = base
    if parameters:
        recipe["parameters"] = dict(parameters)
    return recipe
