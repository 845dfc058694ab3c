"""Methods of angles and roles against plain float64 formulas on the explicit vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.merge.methods.karcher import Karcher
from graftwork.merge.methods.model_stock import ModelStock
from graftwork.merge.methods.multislerp import Multislerp
from graftwork.merge.methods.nuslerp import Nuslerp
from graftwork.merge.methods.slerp import Slerp
from graftwork.merge.slices.slices import GRAIN
from graftwork.merge.statistics.inner_products import GridProducts, PairwiseSum, VectorProducts
from graftwork.merge.statistics.sphere import arc
from graftwork.testing.measuring import measured

Doubles = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]
Close = Callable[..., None]


def gram(*vectors: Sequence[float] | Doubles) -> Doubles:
    stacked = np.array([np.ravel(vector) for vector in vectors], np.float64)
    return np.asarray(stacked @ stacked.T)


def unit(vector: Doubles) -> Doubles:
    return np.asarray(vector / np.linalg.norm(vector))


def karcher_mean(vectors: Sequence[Doubles], weights: Sequence[float], rounds: int = 400) -> Doubles:
    """The mean direction, by gradient descent on the vectors themselves."""
    directions = [unit(vector) for vector in vectors]
    mean = unit(sum((w * u for w, u in zip(weights, directions, strict=True)), np.zeros_like(directions[0])))
    for _ in range(rounds):
        step = np.zeros_like(mean)
        for weight, direction in zip(weights, directions, strict=True):
            angle = np.arccos(np.clip(mean @ direction, -1, 1))
            across = direction - (mean @ direction) * mean
            if np.linalg.norm(across) > 0:
                step += weight * angle * unit(across)
        size = np.linalg.norm(step)
        if size < 1e-14:
            break
        mean = unit(np.cos(size) * mean + np.sin(size) * step / size)
    return mean


def slerped(first: Doubles, second: Doubles, t: float) -> Doubles:
    angle = np.arccos(unit(first) @ unit(second))
    return np.asarray((np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle))


def vectors(count: int, size: int = 40, seed: int = 0) -> list[Doubles]:
    random = np.random.default_rng(seed)
    return [random.normal(size=size) + 0.5 for _ in range(count)]


def applied(coefficients: Sequence[float], inputs: Sequence[Doubles]) -> Doubles:
    return np.asarray(sum(c * x for c, x in zip(coefficients, inputs, strict=True)))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_karcher_is_the_mean_that_an_iteration_on_the_vectors_finds(count: int) -> None:
    inputs = vectors(count)
    found = applied(Karcher(max_iter=200, tol=1e-12).coefficients(gram(*inputs)), inputs)
    length = np.mean([np.linalg.norm(x) for x in inputs])
    np.testing.assert_allclose(found, length * karcher_mean(inputs, [1 / count] * count), atol=1e-6)


def test_karcher_stops_after_max_iter_steps() -> None:
    inputs = vectors(3)
    found = applied(Karcher(max_iter=0).coefficients(gram(*inputs)), inputs)
    length = np.mean([np.linalg.norm(x) for x in inputs])
    np.testing.assert_allclose(found, length * unit(sum((unit(x) for x in inputs), np.zeros(40))), atol=1e-12)


def test_karcher_of_two_is_halfway_on_the_arc() -> None:
    first, second = vectors(2)
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    weights = Karcher().coefficients(gram(first, second))
    np.testing.assert_allclose(applied(weights, [first, second]), slerped(first, second, 0.5), atol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_scaling_all_models_scales_the_spherical_means(scale: float) -> None:
    products = gram(*vectors(3))
    for method in (Karcher(), Multislerp((0.5, 0.2, 0.3))):
        np.testing.assert_allclose(
            method.coefficients(products * scale**2), method.coefficients(products), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("weights", [(1, 1, 1), (0.2, 0.5, 0.3), (2, 3, 1, 4)])
def test_multislerp_is_the_weighted_mean_on_the_sphere(weights: tuple[float, ...]) -> None:
    inputs = vectors(len(weights))
    shares = np.array(weights) / sum(weights)
    found = applied(Multislerp(weights).coefficients(gram(*inputs)), inputs)
    length = sum(w * np.linalg.norm(x) for w, x in zip(shares, inputs, strict=True))
    np.testing.assert_allclose(found, length * karcher_mean(inputs, list(shares)), atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_two_models_of_one_length_give_slerp_whatever_the_method(t: float) -> None:
    first, second = vectors(2, seed=3)
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    products = gram(first, second)
    expected = slerped(first, second, t)
    found: list[Sequence[float]] = [
        Multislerp((1 - t, t)).coefficients(products),
        list(arc(products, Nuslerp((1 - t, t)).t)),
        Slerp(t).coefficients(products),
    ]
    for weights in found:
        np.testing.assert_allclose(applied(weights, [first, second]), expected, atol=1e-9)


def test_two_models_of_different_length_give_slerp_of_the_directions() -> None:
    first, second = vectors(2)
    second *= 5
    found = applied(Multislerp((3, 1)).coefficients(gram(first, second)), [first, second])
    length = 0.75 * np.linalg.norm(first) + 0.25 * np.linalg.norm(second)
    np.testing.assert_allclose(found, length * slerped(unit(first), unit(second), 0.25), atol=1e-9)


def test_multislerp_in_mergekits_form_is_a_normalised_mean() -> None:
    inputs, weights = vectors(3), np.array([0.2, 0.5, 0.3])
    found = applied(Multislerp((0.2, 0.5, 0.3), compat_=True).coefficients(gram(*inputs)), inputs)
    mean = sum((w * unit(x) for w, x in zip(weights, inputs, strict=True)), np.zeros(40))
    length = sum(w * np.linalg.norm(x) for w, x in zip(weights, inputs, strict=True))
    np.testing.assert_allclose(found, length * unit(mean), atol=1e-12)


def test_multislerp_without_normalisation_scales_the_length_alone() -> None:
    products = gram(*vectors(3))
    once = np.array(Multislerp((0.2, 0.5, 0.3)).coefficients(products))
    double = Multislerp((0.4, 1.0, 0.6), normalize_weights=False).coefficients(products)
    np.testing.assert_allclose(double, 2 * once, rtol=1e-9)


@pytest.mark.parametrize("towards", [1.0, -1.0])
def test_an_arc_without_an_angle_is_the_straight_line(towards: float) -> None:
    ray, other = np.array([3.0, 0, 4, 0]), np.array([4.0, 0, -3, 0])
    for products in (gram(ray, towards * ray), gram(ray, towards * (ray + 1e-9 * other)), gram(0 * ray, other)):
        np.testing.assert_allclose(arc(products, 0.3), [0.7, 0.3], rtol=1e-6)


def test_degenerate_spheres_have_finite_means() -> None:
    zero, ray = np.zeros(4), np.array([3.0, 0, 4, 0])
    cases = [
        gram(zero, zero),
        gram(zero, ray),
        gram(ray, ray),
        gram(ray, 7 * ray),
        gram(ray, -ray),
        gram(ray, -3 * ray),
    ]
    for products in cases:
        assert np.isfinite(Karcher().coefficients(products)).all()
        assert np.isfinite(Multislerp((0.5, 0.5)).coefficients(products)).all()
        assert np.isfinite(Multislerp((0.5, 0.5), compat_=True).coefficients(products)).all()


def test_parallel_models_are_averaged_along_their_line() -> None:
    ray = np.array([3.0, 0, 4, 0])
    for method in (Karcher(), Multislerp((1, 1))):
        np.testing.assert_allclose(
            applied(method.coefficients(gram(ray, 3 * ray)), [ray, 3 * ray]), 2 * ray, atol=1e-12
        )


def test_models_that_cancel_keep_the_first_direction_or_the_line() -> None:
    ray = np.array([3.0, 0, 4, 0])
    np.testing.assert_allclose(applied(Karcher().coefficients(gram(ray, -3 * ray)), [ray, -3 * ray]), 2 * ray)
    np.testing.assert_allclose(
        applied(Multislerp((1, 1)).coefficients(gram(ray, -3 * ray)), [ray, -3 * ray]), -ray, atol=1e-12
    )


def test_a_zero_model_counts_in_the_length_alone() -> None:
    ray, zero = np.array([3.0, 0, 4, 0]), np.zeros(4)
    for method in (Karcher(), Multislerp((1, 1))):
        np.testing.assert_allclose(method.coefficients(gram(ray, zero)), [0.5, 0])
        assert method.coefficients(gram(zero, zero))[0] in (0.0, 0.5)


def test_weights_that_sum_to_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="the weights sum to 0"):
        Multislerp((1, -1))
    with pytest.raises(ValueError, match="the weights sum to 0"):
        Nuslerp((1, -1))
    assert Nuslerp((1, -1), compat_=True).t == 0.5


@pytest.mark.parametrize("vectors_", ["filters", "rows", "columns"])
@pytest.mark.parametrize("shape", [(300, 513), (3, 70_001), (70_001, 3), (7, 11, 5, 3), (1, 5), (5, 1), (9,), ()])
@pytest.mark.parametrize("based", [True, False])
def test_products_by_vector_do_not_depend_on_slices(vectors_: Any, shape: tuple[int, ...], based: bool) -> None:
    random = np.random.default_rng(1)
    inputs = [random.normal(size=shape).astype(np.float32) for _ in range(3)]
    base = random.normal(size=shape).astype(np.float32) if based else None
    own = [(x if base is None else x - base).astype(np.float64) for x in inputs]
    if len(shape) < 2:
        matrices = [x.reshape(1, -1) for x in own]
    elif vectors_ == "rows":
        matrices = [x.reshape(-1, shape[-1]) for x in own]
    else:
        matrices = [x.reshape(shape[0], -1) for x in own]
        matrices = [x.T for x in matrices] if vectors_ == "columns" else matrices
    expected = np.array([[(a * b).sum(axis=1) for b in matrices] for a in matrices]).transpose(2, 0, 1)
    found = [measured(VectorProducts(vectors_), shape, inputs, base, length) for length in (GRAIN, 4 * GRAIN)]
    assert all(isinstance(one, GridProducts) for one in found)
    np.testing.assert_allclose(found[0].products, expected, rtol=1e-9, atol=1e-9)
    assert found[0].products.tobytes() == found[1].products.tobytes()


def test_a_sum_by_index_does_not_depend_on_the_order() -> None:
    values = np.random.default_rng(2).normal(size=(5, 3))
    totals = set()
    for order in itertools.permutations(range(5)):
        tree = PairwiseSum()
        for index in order:
            tree.add(index, values[index])
        totals.add(tree.total().tobytes())
    assert len(totals) == 1


def by_vector(combine: Callable[..., Doubles], axis: int, *tensors: Doubles) -> Doubles:
    """`combine` applied to each pair of vectors along one axis."""
    moved = [np.moveaxis(x, axis, -1) for x in tensors]
    result = np.empty_like(moved[0])
    for index in np.ndindex(*result.shape[:-1]):
        result[index] = combine(*(x[index] for x in moved))
    return np.moveaxis(result, -1, axis)


@pytest.mark.parametrize(("row_wise", "compat"), [(False, False), (True, False), (True, True)])
def test_nuslerp_by_rows_and_columns(bench: Any, close: Close, row_wise: bool, compat: bool) -> None:
    paths, weights = bench.family(2)
    recipe = bench.recipe(
        "nuslerp",
        paths[1:],
        base=False,
        parameters={"weight": 1, "nuslerp_flatten": False, "nuslerp_row_wise": row_wise},
        **({"compat": "mergekit"} if compat else {}),
    )
    expected = {}
    for name, first in weights[1].items():
        a, b = first.astype(np.float64), weights[2][name].astype(np.float64)
        axis = -1 if row_wise != compat or a.ndim < 2 else 0
        expected[name] = by_vector(lambda x, y: slerped(x, y, 0.5), axis, a, b) if a.ndim and a.size else (a + b) / 2
    close(bench.merge(recipe), expected, "F32")


@pytest.mark.parametrize("based", [False, True])
def test_nuslerp_goes_along_the_arc_between_models_or_task_vectors(bench: Any, close: Close, based: bool) -> None:
    paths, weights = bench.family(2)
    per_model = [{"weight": 1.5}, {"weight": 0.5}]
    chosen = paths if based else paths[1:]
    recipe = bench.recipe("nuslerp", chosen, base=based, per_model=per_model)
    expected = {}
    for name, first in weights[1].items():
        origin = weights[0][name].astype(np.float64) * based
        a, b = ((x.astype(np.float64) - origin).reshape(-1) for x in (first, weights[2][name]))
        merged = slerped(a, b, 0.25) if a.size > 1 else 0.75 * a + 0.25 * b
        expected[name] = origin + merged.reshape(first.shape)
    close(bench.merge(recipe), expected, "F32")


def test_multislerp_and_karcher_merge_whole_checkpoints(bench: Any, close: Close) -> None:
    paths, weights = bench.family(3, "BF16")
    for method, based in (("multislerp", True), ("multislerp", False), ("karcher", False)):
        parameters = {} if method == "karcher" else {"parameters": {"weight": 1}}
        recipe = bench.recipe(method, paths if based else paths[1:], base=based, **parameters)
        expected = {}
        for name, base in weights[0].items():
            origin = base.astype(np.float64).reshape(-1) * based
            inputs = [model[name].astype(np.float64).reshape(-1) - origin for model in weights[1:]]
            if not base.size:
                expected[name] = base.astype(np.float64)
                continue
            length = np.mean([np.linalg.norm(x) for x in inputs])
            if base.size == 1:
                mean = np.sign(np.sum(np.sign(inputs))) * np.ones(1)
            else:
                mean = karcher_mean(inputs, [1 / 3] * 3)
            expected[name] = (origin + length * mean).reshape(base.shape)
        close(bench.merge(recipe, f"{method}-{based}"), expected, "BF16")


def stock_ratio(deltas: Sequence[Doubles]) -> float:
    pairs = [float(unit(a) @ unit(b)) if a.any() and b.any() else 0.0 for a, b in itertools.combinations(deltas, 2)]
    c, count = float(np.mean(pairs)), len(deltas)
    return 0.0 if c <= 0 else min(1.0, count * c / (1 + (count - 1) * c))


@pytest.mark.parametrize("filter_wise", [False, True])
def test_model_stock_goes_as_far_as_the_models_agree(bench: Any, close: Close, filter_wise: bool) -> None:
    base = bench.random(0)
    shared = bench.random(9)
    steps = [bench.random(seed) for seed in (1, 2, 3)]
    models = [{n: np.asarray(base[n] + np.float32(0.01) * (shared[n] + step[n])) for n in base} for step in steps]
    paths = [bench.write(f"m{position}", tensors) for position, tensors in enumerate([base, *models])]
    recipe = bench.recipe("model_stock", paths, parameters={"filter_wise": filter_wise})
    expected = {}
    for name, origin in base.items():
        deltas = [(model[name] - origin).astype(np.float64) for model in models]
        rows = filter_wise and origin.ndim > 1 and origin.size > 0
        parts = (
            [[d.reshape(origin.shape[0], -1)[row] for d in deltas] for row in range(origin.shape[0])] if rows else []
        )
        parts = parts if rows else [[d.reshape(-1) for d in deltas]]
        merged = [stock_ratio(part) * np.mean(part, axis=0) for part in parts]
        expected[name] = origin + np.reshape([*itertools.chain(*merged)], origin.shape)
    close(bench.merge(recipe), expected, "F32")


def test_model_stock_never_leaves_the_stretch_from_base_to_average() -> None:
    ray = np.array([1.0, 0, 0, 0])
    opposed = gram(ray, -ray + 0.1)
    assert float(ModelStock().ratio(opposed)) == 0.0
    assert float(ModelStock(compat_=True).ratio(opposed)) < -1
    assert float(ModelStock().ratio(gram(ray, ray, ray))) == pytest.approx(1)
    assert float(ModelStock().ratio(gram(ray, 0 * ray))) == 0.0
    tiny = gram(1e-5 * ray, 1e-5 * ray)
    assert float(ModelStock().ratio(tiny)) == pytest.approx(1)
    assert float(ModelStock(compat_=True).ratio(tiny)) == pytest.approx(2e-4 / (1 + 1e-4), rel=1e-6)
    assert float(ModelStock(compat_=True).ratio(gram(ray, -ray))) == 0.0
