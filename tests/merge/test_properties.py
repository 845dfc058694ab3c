"""What holds for every method there is, on checkpoints with everything that is awkward about real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.merge.method import Method, methods
from graftwork.merge.slices.slices import GRAIN

Tensors = dict[str, NDArray[Any]]
Parameters = Mapping[str, Any]

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (4400, 16),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.k_proj.weight": (8, 16),
    "model.layers.0.self_attn.v_proj.weight": (8, 16),
    "model.layers.0.self_attn.o_proj.weight": (16, 16),
    "model.layers.0.mlp.gate_proj.weight": (12, 16),
    "model.layers.0.mlp.up_proj.weight": (12, 16),
    "model.layers.0.mlp.down_proj.weight": (16, 12),
    "model.conv.weight": (6, 5, 3, 3),
    "model.norm.weight": (16,),
    "model.column.weight": (9, 1),
    "model.row.weight": (1, 9),
    "model.scale": (),
    "model.one": (1,),
    "model.empty": (0, 5),
}
CONFIG = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 12}
MODELS = 3

ELEMENTWISE = {name: method for name, method in methods().items() if method.space in ("weight", "delta")}
SINGLE = [name for name, method in ELEMENTWISE.items() if method.models[0] == 1]
ROLES: list[Parameters] = [{"role": "clean"}, {"alpha": 0.5}, {"role": "target"}]
SCALED: list[Parameters] = [{"scale": 0.5}]
WEIGHTS: list[Parameters] = [{"weight": 0.5}, {"weight": 0.25}, {"weight": 0.75}]
UNEVEN: list[Parameters] = [{"coefficient": 0.5}, {"coefficient": -0.3}, {"coefficient": 0.7}]
SPARSE: list[Parameters] = [{**own, "density": density} for own, density in zip(WEIGHTS, (0.4, 0.7, 0.2), strict=True)]
"""Weights that are exact in binary: elections by a sum that cancels exactly do not hang on its rounding."""

EXAMPLES: dict[str, list[tuple[list[Parameters], Parameters]]] = {
    "atlas_apply": [(UNEVEN, {})],
    "breadcrumbs": [(SPARSE, {"gamma": 0.05})],
    "breadcrumbs_ties": [(SPARSE, {"gamma": 0.05})],
    "dare_linear": [(SPARSE, {})],
    "dare_ties": [(SPARSE, {})],
    "della": [(SPARSE, {"epsilon": 0.1})],
    "della_linear": [(SPARSE, {"epsilon": 0.1})],
    "linear": [(WEIGHTS, {})],
    "model_stock": [([], {}), ([], {"filter_wise": True})],
    "multislerp": [(WEIGHTS, {})],
    "nearswap": [([], {"t": 0.005})],
    "nuslerp": [
        (WEIGHTS[:2], {}),
        (WEIGHTS[:2], {"nuslerp_flatten": False}),
        (WEIGHTS[:2], {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ],
    "passthrough": [(SCALED, {})],
    "ram": [([], {"epsilon": 0.01})],
    "ramplus_tl": [([], {"epsilon": 0.01})],
    "rws": [(ROLES, {})],
    "sce": [([], {"select_topk": 0.4})],
    "slerp": [([], {"t": 0.3})],
    "task_arithmetic": [(WEIGHTS, {"lambda": 0.8})],
    "twin_shared": [(WEIGHTS, {})],
    "weight_matching": [(WEIGHTS, {}), (WEIGHTS, {"residual": True})],
    "ties": [(SPARSE, {}), ([], {"variant": "paper", "density": 0.3})],
}
"""Parameters that make a method do what it does; a method that is not here is tried with its defaults."""

WHOLE: dict[str, Parameters] = {
    "atlas_apply": {},
    "breadcrumbs": {"normalize": True, "gamma": 0},
    "breadcrumbs_ties": {"normalize": True, "gamma": 0},
    "dare_linear": {"normalize": True},
    "dare_ties": {"normalize": True},
    "della": {"normalize": True, "epsilon": 0},
    "della_linear": {"normalize": True, "epsilon": 0},
    "ema_toward_mean": {"alpha": 1},
    "karcher": {},
    "linear": {},
    "model_stock": {},
    "multislerp": {"weight": 1},
    "nearswap": {"t": 100},
    "nuslerp": {"weight": 1},
    "passthrough": {},
    "ram": {"epsilon": 0},
    "ramplus_tl": {"epsilon": 0},
    "sce": {},
    "slerp": {"t": 1},
    "task_arithmetic": {"normalize": True},
    "ties": {},
    "twin_shared": {"lambda": 1},
    "weight_matching": {},
}
"""Parameters with which a method is an average: of models that are the same it gives that model."""
SHARES = {"atlas_apply": "coefficient", "twin_shared": "weight"}
"""Of these, the ones that add up, and the parameter that makes the sum a mean."""
NO_SPREAD: Parameters = {"epsilon": 0}
ALL_KEPT: dict[str, Parameters] = {"dare_linear": {}, "dare_ties": {}, "della": NO_SPREAD, "della_linear": NO_SPREAD}
"""Methods that drop entries at random, by the model's position: without dropping any the position does not matter."""

CASES = [
    pytest.param(name, each, id=f"{name}-{number}" if number else name)
    for name in ELEMENTWISE
    for number, each in enumerate(EXAMPLES.get(name, [([], {})]))
]


def tensors(seed: int, around: Tensors | None = None) -> Tensors:
    """Random weights in bfloat16, which all dtypes hold exactly, and an integer buffer; or random steps away."""
    random = np.random.default_rng(seed)
    made: Tensors = {}
    for name, shape in SHAPES.items():
        values = random.normal(size=shape)
        if around is not None:
            values = around[name].astype(np.float64) + 0.02 * values
        made[name] = np.asarray(np.asarray(values).astype(ml_dtypes.bfloat16).astype(np.float32))
    made["model.position_ids"] = np.arange(5)
    return made


BASE = tensors(0)
FAMILY = [BASE, *(tensors(seed, BASE) for seed in range(1, MODELS + 1))]


def as_dtype(model: Tensors, dtype: str) -> Tensors:
    return {name: x if x.dtype == np.int64 else np.asarray(x.astype(DTYPES[dtype])) for name, x in model.items()}


def count(method: Method) -> int:
    return min(MODELS, method.models[1] or MODELS)


def average(name: str, models: int) -> Parameters:
    """The parameters with which a method is an average of so many models."""
    return {**WHOLE[name], **({SHARES[name]: 1 / models} if name in SHARES else {})}


def raw_bytes(merged: Tensors) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in merged.items()}


class Merges:
    """Merges by one method with one set of parameters."""

    def __init__(self, bench: Any, name: str, example: tuple[list[Parameters], Parameters]) -> None:
        self.bench, self.method, self.made = bench, ELEMENTWISE[name], 0
        self.per_model, self.parameters = example
        self.tied = False

    def __call__(
        self, family: list[Tensors], *, shards: int = 1, order: list[int] | None = None, **settings: Any
    ) -> Tensors:
        self.made += 1
        base, *models = family
        models = models[: count(self.method)]
        per_model = [dict(own) for own in self.per_model] or [{}] * len(models)
        order = order or list(range(len(models)))
        paths = [
            self._write(f"{self.made}-{position}", model, shards)
            for position, model in enumerate([base, *(models[position] for position in order)])
        ]
        recipe = self.bench.recipe(
            self.method.name,
            paths if self.method.takes_base else paths[1:],
            base=self.method.takes_base,
            per_model=[per_model[position] for position in order if position < len(per_model)],
            parameters=dict(self.parameters),
        )
        merged: Tensors = self.bench.merge(recipe, f"{self.made}-merged", **settings)
        return merged

    def _write(self, name: str, model: Tensors, shards: int) -> str:
        folder = str(self.bench.write(name, model, shards=shards))
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | CONFIG | {"tie_word_embeddings": self.tied}))
        return folder


@pytest.fixture
def merges(bench: Any, name: str, example: tuple[list[Parameters], Parameters]) -> Merges:
    return Merges(bench, name, example)


def test_every_method_is_tried_here_or_with_adapters() -> None:
    assert {method.space for method in methods().values()} == {"weight", "delta", "adapter"}
    assert set(EXAMPLES) | set(WHOLE) <= set(ELEMENTWISE)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_every_tensor_comes_out_with_its_shape_and_dtype(merges: Merges) -> None:
    merged = merges(FAMILY)
    assert {name: (x.shape, x.dtype) for name, x in merged.items()} == {n: (x.shape, x.dtype) for n, x in BASE.items()}
    assert np.array_equal(merged["model.position_ids"], BASE["model.position_ids"])
    assert all(np.isfinite(values).all() for values in merged.values())
    assert any(not np.array_equal(values, BASE[name]) for name, values in merged.items())


@pytest.mark.parametrize(("name", "example"), CASES)
def test_files_threads_and_slices_change_no_byte(merges: Merges) -> None:
    expected = raw_bytes(merges(FAMILY, threads=1))
    assert raw_bytes(merges(FAMILY, threads=2, shards=3)) == expected
    assert raw_bytes(merges(FAMILY, threads=1, memory=4_000_000)) == expected
    assert raw_bytes(merges(FAMILY, threads=2, memory=9_000_000)) == expected


@pytest.mark.parametrize(("name", "example"), CASES)
@pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_changes_no_byte(merges: Merges, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.merge.device.LONGEST_SLICE", GRAIN)
    for dtype, memory in (("F32", 500_000_000), ("F16", 12_000_000), ("BF16", 8_000_000)):
        family = [as_dtype(model, dtype) for model in FAMILY]
        assert raw_bytes(merges(family, device=device, memory=memory)) == raw_bytes(merges(family)), dtype


@pytest.mark.parametrize(("name", "example"), CASES)
@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_sixteen_bits_are_rounded_once_at_the_end(merges: Merges, dtype: str) -> None:
    family = [as_dtype(model, dtype) for model in FAMILY]
    wide = merges([as_dtype(model, "F32") for model in family])
    assert raw_bytes(merges(family)) == raw_bytes(as_dtype(wide, dtype))


@pytest.mark.parametrize(("name", "example"), CASES)
def test_the_order_of_the_models_does_not_matter(merges: Merges, name: str) -> None:
    many = count(merges.method)
    if name in ALL_KEPT:
        merges.per_model, merges.parameters = WEIGHTS, ALL_KEPT[name]
    expected = merges(FAMILY)
    turned = merges(FAMILY, order=[*range(1, many), 0])
    for tensor, values in expected.items():
        np.testing.assert_allclose(turned[tensor], values, rtol=1e-5, atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize(("name", "example"), CASES)
def test_models_like_the_base_give_the_base(merges: Merges, name: str) -> None:
    if name == "passthrough":
        merges.per_model = []
    merged = merges([BASE] * (MODELS + 1))
    for tensor, values in BASE.items():
        if merges.method.takes_base:
            assert np.array_equal(merged[tensor], values), tensor
        np.testing.assert_allclose(merged[tensor], values, rtol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", WHOLE)
def test_models_that_are_the_same_give_that_model(bench: Any, name: str) -> None:
    merged = Merges(bench, name, ([], average(name, MODELS)))([BASE, *[FAMILY[1]] * MODELS])
    for tensor, values in FAMILY[1].items():
        np.testing.assert_allclose(merged[tensor], values, rtol=1e-5, atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", [name for name in SINGLE if name in WHOLE])
def test_a_single_model_comes_out_as_it_is(bench: Any, name: str) -> None:
    merged = Merges(bench, name, ([], average(name, 1)))(FAMILY[:2])
    for tensor, values in FAMILY[1].items():
        np.testing.assert_allclose(merged[tensor], values, rtol=1e-5, atol=1e-6, err_msg=tensor)


@pytest.mark.parametrize("name", [name for name in SINGLE if name not in WHOLE])
def test_a_single_model_can_be_merged(bench: Any, name: str) -> None:
    merged = Merges(bench, name, EXAMPLES.get(name, [([], {})])[0])(FAMILY[:2])
    assert all(np.isfinite(values).all() for values in merged.values())


def tied(model: Tensors, *, stored: bool) -> Tensors:
    """The model with a head that is its embedding, stored twice or once."""
    return model | ({"lm_head.weight": model["model.embed_tokens.weight"].copy()} if stored else {})


@pytest.mark.parametrize(("name", "example"), CASES)
@pytest.mark.parametrize("stored", [False, True])
def test_a_head_tied_to_the_embedding_stays_tied(merges: Merges, name: str, stored: bool) -> None:
    merges.tied = True
    merged = merges([tied(model, stored=stored) for model in FAMILY])
    assert ("lm_head.weight" in merged) is stored
    if stored and name not in ALL_KEPT:
        assert np.array_equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
