"""Every elementwise method against its formula in plain float64 numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.errors import InvalidRecipe

Doubles = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]
DTYPES = ("F32", "F16", "BF16")


def doubles(tensors: Tensors) -> dict[str, Doubles]:
    return {name: values.astype(np.float64) for name, values in tensors.items()}


def deltas(base: NDArray[Any], models: Sequence[NDArray[Any]]) -> list[Doubles]:
    """Differences as the specification takes them: rounded to float32."""
    return [(model.astype(np.float32) - base.astype(np.float32)).astype(np.float64) for model in models]


def ties_mergekit(
    base: NDArray[Any], models: Sequence[NDArray[Any]], weights: Sequence[float], density: Sequence[float]
) -> Doubles:
    kept = []
    for delta, share in zip(deltas(base, models), density, strict=True):
        flat = delta.reshape(-1)
        order = np.lexsort((np.arange(flat.size), -np.abs(flat)))
        trimmed = np.zeros_like(flat)
        chosen = order[: max(1, int(share * flat.size))] if flat.size else order
        trimmed[chosen] = flat[chosen]
        kept.append(trimmed.reshape(delta.shape))
    terms = np.stack([weight * delta for weight, delta in zip(weights, kept, strict=True)])
    sign = np.where(terms.sum(0) >= 0, 1.0, -1.0)
    agree = terms * sign > 0
    divisor = (agree * np.abs(np.array(weights)).reshape(-1, *[1] * base.ndim)).sum(0)
    merged: Doubles = base.astype(np.float64) + (terms * agree).sum(0) / np.where(divisor == 0, 1, divisor)
    return merged


def ties_paper(weights: list[Tensors], kept: float, aggregate: str) -> dict[str, Doubles]:
    """The authors' procedure: flatten in sorted order, trim the whole model, elect, resolve zeros, aggregate."""
    base, *models = weights
    names = sorted(base)
    flat = np.stack([np.concatenate([deltas(base[n], [model[n]])[0].reshape(-1) for n in names]) for model in models])
    size = flat.shape[1]
    threshold = np.sort(np.abs(flat), axis=1)[:, size - int(size * kept) - 1]
    flat = np.where(np.abs(flat) >= threshold[:, None], flat, 0)
    sign = np.sign(flat.sum(0))
    sign[sign == 0] = np.sign(sign.sum()) or 1
    chosen = np.where(sign > 0, flat > 0, flat < 0) * flat
    if aggregate == "mean":
        merged = chosen.sum(0) / np.maximum(1, (chosen != 0).sum(0))
    elif aggregate == "sum":
        merged = chosen.sum(0)
    else:
        merged = np.abs(chosen).max(0) * sign
    parts = np.split(merged, np.cumsum([base[name].size for name in names])[:-1])
    return {
        name: base[name].astype(np.float64) + part.reshape(base[name].shape)
        for name, part in zip(names, parts, strict=True)
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_the_weighted_average(bench: Any, close: Callable[..., None], dtype: str) -> None:
    paths, weights = bench.family(3, dtype)
    recipe = bench.recipe("linear", paths[1:], base=False, per_model=[{"weight": w} for w in (0.2, -0.1, 0.7)])
    expected = {
        name: sum(w * doubles(model)[name] for w, model in zip((0.2, -0.1, 0.7), weights[1:], strict=True)) / 0.8
        for name in weights[0]
    }
    close(bench.merge(recipe), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_task_arithmetic_adds_and_forgets(bench: Any, close: Callable[..., None], dtype: str) -> None:
    paths, weights = bench.family(2, dtype)
    recipe = bench.recipe(
        "task_arithmetic", paths, per_model=[{"weight": 1.0}, {"weight": -0.5}], parameters={"lambda": 0.4}
    )
    expected = {}
    for name, base in weights[0].items():
        first, second = deltas(base, [weights[1][name], weights[2][name]])
        expected[name] = base.astype(np.float64) + 0.4 * (first - 0.5 * second)
    close(bench.merge(recipe), expected, dtype)


def test_task_arithmetic_with_lambda_one_in_t_is_the_mean(bench: Any, close: Callable[..., None]) -> None:
    paths, weights = bench.family(3)
    recipe = bench.recipe("task_arithmetic", paths, parameters={"lambda": 1 / 3})
    expected = {name: np.mean([doubles(model)[name] for model in weights[1:]], axis=0) for name in weights[0]}
    close(bench.merge(recipe), expected, "F32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [(0.2, 0.2, 0.2), (0.37, 1.0, 0.001)])
def test_ties_is_mergekits(
    bench: Any, close: Callable[..., None], dtype: str, density: tuple[float, float, float]
) -> None:
    paths, weights = bench.family(3, dtype)
    factors = (0.5, 0.25, 1.0)  # exact in binary: an undecided vote is undecided in float32 and in float64
    per_model = [{"weight": w, "density": d} for w, d in zip(factors, density, strict=True)]
    merged = bench.merge(bench.recipe("ties", paths, per_model=per_model))
    expected = {
        name: ties_mergekit(base, [model[name] for model in weights[1:]], factors, density)
        for name, base in weights[0].items()
    }
    close(merged, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aggregate", ["mean", "sum", "max"])
def test_ties_paper_variant_is_the_authors(bench: Any, close: Callable[..., None], dtype: str, aggregate: str) -> None:
    paths, weights = bench.family(3, dtype)
    parameters = {"variant": "paper", "density": 0.2, "aggregate": aggregate}
    merged = bench.merge(bench.recipe("ties", paths, parameters=parameters))
    close(merged, ties_paper(weights, 0.2, aggregate), dtype)


def test_the_two_variants_of_ties_differ_where_tensors_have_different_scales(bench: Any) -> None:
    base = {"a": np.zeros(1000, np.float32), "b": np.zeros(1000, np.float32)}
    random = np.random.default_rng(1)
    model = {"a": random.normal(size=1000).astype(np.float32), "b": (random.normal(size=1000) / 100).astype(np.float32)}
    paths = [bench.write("base", base), bench.write("model", model)]
    exact = bench.merge(bench.recipe("ties", paths, parameters={"density": 0.2}), "exact")
    paper = bench.merge(bench.recipe("ties", paths, parameters={"density": 0.2, "variant": "paper"}), "paper")
    assert [np.count_nonzero(exact[name]) for name in "ab"] == [200, 200]
    assert [np.count_nonzero(paper[name]) for name in "ab"] == [401, 0]


def test_ties_breaks_equal_magnitudes_by_the_lowest_index(bench: Any) -> None:
    base = {"w": np.zeros(200_001, np.float32)}
    model = {"w": np.ones(200_001, np.float32)}
    paths = [bench.write("base", base), bench.write("model", model)]
    for count, memory in ((131_072, 65_536 * 12), (150_000, 65_536 * 12), (1, 1_000_000_000)):
        recipe = bench.recipe("ties", paths, parameters={"density": (count + 0.5) / 200_001})
        merged = bench.merge(recipe, f"merged-{count}", memory=memory)
        assert np.flatnonzero(merged["w"]).tolist() == list(range(count))


@pytest.mark.parametrize("dtype", DTYPES)
def test_slerp_follows_the_arc(bench: Any, close: Callable[..., None], dtype: str) -> None:
    base, model = bench.random(1, dtype), bench.random(2, dtype)
    paths = [bench.write("base", base), bench.write("model", model)]
    merged = bench.merge(bench.recipe("slerp", paths, parameters={"t": 0.3}))
    expected = {}
    for name, values in doubles(base).items():
        other = doubles(model)[name]
        norms = np.linalg.norm(values.reshape(-1)), np.linalg.norm(other.reshape(-1))
        cosine = float(np.vdot(values, other) / (norms[0] * norms[1])) if values.size else 1.0
        if abs(cosine) > 0.9995:
            expected[name] = np.asarray(0.7 * values + 0.3 * other)
        else:
            angle = np.arccos(cosine)
            expected[name] = (np.sin(0.7 * angle) * values + np.sin(0.3 * angle) * other) / np.sin(angle)
    close(merged, expected, dtype)


def test_ties_with_weights_of_both_signs_stays_an_average(bench: Any) -> None:
    weights = [{"w": np.array([value], np.float32)} for value in (0, 1, -1)]
    paths = [bench.write(str(number), tensors) for number, tensors in enumerate(weights)]
    merged = bench.merge(bench.recipe("ties", paths, per_model=[{"weight": 1.0}, {"weight": -0.99}]))
    assert merged["w"].tolist() == [1.0]


def test_slerp_of_nearly_parallel_tensors_is_a_straight_line(bench: Any, close: Callable[..., None]) -> None:
    base = {"w": np.linspace(1, 2, 1001, dtype=np.float32)}
    model = {"w": np.linspace(1, 2.001, 1001, dtype=np.float32)}
    paths = [bench.write("base", base), bench.write("model", model)]
    merged = bench.merge(bench.recipe("slerp", paths, parameters={"t": 0.25}))
    close(merged, {"w": 0.75 * doubles(base)["w"] + 0.25 * doubles(model)["w"]}, "F32")


def test_passthrough_copies_and_scales(bench: Any) -> None:
    paths, weights = bench.family(1)
    copied = bench.merge(bench.recipe("passthrough", paths[1:], base=False), "copied")
    assert all(np.array_equal(copied[name], weights[1][name]) for name in copied)
    scale = [{"filter": "mlp", "value": 0.5}]
    scaled = bench.merge(bench.recipe("passthrough", paths[1:], base=False, parameters={"scale": scale}), "scaled")
    assert np.array_equal(scaled["model.layers.1.mlp.weight"], weights[1]["model.layers.1.mlp.weight"] / 2)
    assert np.array_equal(scaled["model.norm.weight"], weights[1]["model.norm.weight"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("linear", {}),
        ("task_arithmetic", {}),
        ("ties", {"density": 0.3}),
        ("ties", {"density": 0.3, "variant": "paper"}),
    ],
)
def test_the_order_of_the_models_changes_no_more_than_rounding(
    bench: Any, close: Callable[..., None], dtype: str, method: str, parameters: dict[str, Any]
) -> None:
    paths, _ = bench.family(3, dtype)
    forth = bench.merge(bench.recipe(method, paths, parameters=parameters), "forth")
    back = bench.merge(bench.recipe(method, [paths[0], *paths[:0:-1]], parameters=parameters), "back")
    close(forth, doubles(back), dtype)


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_a_single_model_with_weight_one_comes_out_unchanged(
    bench: Any, close: Callable[..., None], method: str
) -> None:
    paths, weights = bench.family(1)
    recipe = bench.recipe(method, paths if method != "linear" else paths[1:], base=method != "linear")
    close(bench.merge(recipe), doubles(weights[1]), "F32")


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "slerp"])
def test_models_equal_to_the_base_give_the_base(bench: Any, method: str) -> None:
    base = bench.random(1)
    paths = [bench.write("base", base), bench.write("copy", base)]
    more = {"parameters": {"t": 0.5}} if method == "slerp" else {}
    merged = bench.merge(bench.recipe(method, paths, **more))
    assert all(np.array_equal(merged[name], base[name]) for name in base)


def test_inputs_of_different_dtypes_are_merged_in_float32(bench: Any, close: Callable[..., None]) -> None:
    base, first, second = bench.random(0), bench.random(1, "BF16"), bench.random(2, "F16")
    paths = [bench.write(name, tensors) for name, tensors in (("b", base), ("m", first), ("n", second))]
    merged = bench.merge(bench.recipe("task_arithmetic", paths, dtype="bfloat16", out_dtype="float32"))
    expected = {name: doubles(first)[name] + doubles(second)[name] - values for name, values in doubles(base).items()}
    close(merged, expected, "F32")


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("linear", {"weight": 0.0}, "sum to 0"),
        ("ties", {"variant": "paper", "weight": 0.5}, "no weights"),
        ("ties", {"aggregate": "sum"}, "variant: paper"),
        ("ties", {"variant": "paper", "normalize": False}, "aggregate: sum"),
        ("ties", {"variant": "paper", "density": [0.1, 0.9]}, "whole model at once"),
        ("task_arithmetic", {"weight": 0.0, "normalize": True}, "sum to 0"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(
    bench: Any, method: str, parameters: dict[str, Any], said: str
) -> None:
    paths, _ = bench.family(2)
    with pytest.raises(InvalidRecipe, match=said):
        bench.merge(bench.recipe(method, paths, parameters=parameters))
    assert not (bench.root / "merged").exists()
