"""Methods that choose, count or give models roles, against plain float64 formulas on the explicit vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from graftwork.errors import InvalidRecipe
from graftwork.merge.plan.plan import plan
from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.importance import FusionImportance
from graftwork.settings import Settings
from graftwork.testing.measuring import measured

Doubles = NDArray[np.float64]
Close = Callable[..., None]


def fusion(x: Doubles, base: Doubles) -> tuple[Doubles, float]:
    """The importances and the threshold, on sorted values."""

    def softmax(values: Doubles) -> Doubles:
        grown = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=-1, keepdims=True))

    p, q = softmax(x), softmax(base)
    importance = np.abs(x - base) * (p * np.log(p / q)).sum(axis=-1, keepdims=True)
    ordered = np.sort(importance, axis=None)
    low, median, high = (ordered[int((ordered.size - 1) * share)] for share in (0.25, 0.5, 0.75))
    return importance, median + 1.5 * (high - low)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_arcee_fusion_takes_what_stands_out(bench: Any, dtype: str) -> None:
    paths, weights = bench.family(1, dtype)
    merged = bench.merge(bench.recipe("arcee_fusion", paths))
    for name, base in weights[0].items():
        x = weights[1][name]
        assert merged[name].dtype == x.dtype
        if base.size < 2:
            continue
        importance, threshold = fusion(x.astype(np.float64), base.astype(np.float64))
        clear = np.abs(importance - threshold) > 1e-4 * threshold
        expected = np.where(importance >= threshold, x.astype(np.float64), base.astype(np.float64))
        np.testing.assert_allclose(
            merged[name].astype(np.float64)[clear], expected[clear], rtol=2**-22, atol=1e-8, err_msg=name
        )
        assert 0 < (importance >= threshold).mean() < 0.5 or base.size < 20


@pytest.mark.parametrize("shape", [(5, 70_001), (70_001, 5), (9,)])
def test_importance_does_not_depend_on_slices(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(4)
    base = random.normal(size=shape).astype(np.float32)
    x = base + (0.1 * random.normal(size=shape)).astype(np.float32)
    one, other = (measured(FusionImportance(), shape, [x], base, length) for length in (GRAIN, 4 * GRAIN))
    assert one.divergences.tobytes() == other.divergences.tobytes()
    assert one.threshold == other.threshold
    importance, threshold = fusion(x.astype(np.float64), base.astype(np.float64))
    assert one.threshold == pytest.approx(threshold, rel=1e-5)
    whole = Slice("w", 0, base.reshape(-1), (x.reshape(-1),), 0, shape)
    np.testing.assert_allclose(one.scores(whole), importance.reshape(-1), rtol=1e-5)


def ram(deltas: Sequence[Doubles], epsilon: float, boosts: Sequence[float]) -> Doubles:
    counts = np.stack([np.abs(d) > np.float32(epsilon) for d in deltas])
    many = counts.sum(0)
    alone = sum(b * c * d for b, c, d in zip(boosts, counts, deltas, strict=True))
    shared = sum(c * d for c, d in zip(counts, deltas, strict=True)) / np.maximum(many, 1)
    return np.asarray(np.where(many == 1, alone, shared))


@pytest.mark.parametrize("method", ["ram", "ramplus_tl"])
def test_ram_averages_shared_changes_and_keeps_lone_ones(bench: Any, close: Close, method: str) -> None:
    paths, weights = bench.family(3)
    merged = bench.merge(bench.recipe(method, paths, parameters={"epsilon": 0.015}))
    expected = {}
    for name, base in weights[0].items():
        deltas = [(model[name] - base).astype(np.float64) for model in weights[1:]]
        counts = np.stack([np.abs(d) > np.float32(0.015) for d in deltas])
        many = counts.sum(0)
        boosts = [1.0] * 3
        if method == "ramplus_tl":
            for position, count in enumerate(counts):
                own, shared = int((count & (many == 1)).sum()), int((count & (many > 1)).sum())
                ratio = (shared / own if own else np.inf) if shared else 0.0
                boosts[position] = 1 + 0.1 * min(ratio, 0.2)
        expected[name] = base + ram(deltas, 0.015, boosts)
    close(merged, expected, "F32")


def test_ema_takes_one_step_towards_the_mean(bench: Any, close: Close) -> None:
    paths, weights = bench.family(3)
    merged = bench.merge(bench.recipe("ema_toward_mean", paths))
    expected = {
        name: 0.9 * base + 0.1 * np.mean([model[name].astype(np.float64) for model in weights[1:]], axis=0)
        for name, base in weights[0].items()
    }
    close(merged, expected, "F32")


def rws_recipe(bench: Any, paths: list[str], alphas: Sequence[Any], **parameters: Any) -> Any:
    """The base, the clean model, the robust ones, the target."""
    roles = [{"role": "clean"}, *({"alpha": alpha} for alpha in alphas), {"role": "target"}]
    return bench.recipe("rws", paths, per_model=roles, parameters=parameters)


def test_a_robustness_patch_is_what_is_not_the_task(bench: Any, close: Close) -> None:
    paths, weights = bench.family(4)
    recipe = rws_recipe(bench, paths, [0.5, [{"filter": "mlp", "value": -2}, {"value": 0}]])
    base, clean, *robust, target = weights
    expected = {}
    for name in base:
        a = (clean[name] - base[name]).astype(np.float64)
        patch = np.zeros_like(a)
        for alpha, model in zip((0.5, -2 if "mlp" in name else 0), robust, strict=True):
            d = (model[name] - base[name]).astype(np.float64)
            patch += alpha * (d - (d * a).sum() / max((a * a).sum(), 1e-300) * a)
        expected[name] = target[name] + patch
    close(bench.merge(recipe), expected, "F32")


def test_a_patch_is_taken_off_again(bench: Any) -> None:
    paths, weights = bench.family(3)
    base, clean, robust, target = paths
    patched = bench.merge(rws_recipe(bench, [base, clean, robust, target], [0.7]), "patched")
    off = bench.merge(rws_recipe(bench, [base, clean, robust, str(bench.root / "patched")], [-0.7]), "off")
    for name, values in weights[3].items():
        np.testing.assert_allclose(off[name], values, atol=1e-6)
        assert not values.size > 1 or not np.array_equal(patched[name], values)
    same = bench.merge(rws_recipe(bench, paths, [0]), "same")
    assert all(np.array_equal(same[name], values) for name, values in weights[3].items())


@pytest.mark.parametrize("roles", [["robust", "robust"], ["clean", "clean"], ["clean", "target"]])
def test_roles_that_do_not_make_a_patch_are_refused(bench: Any, roles: list[str]) -> None:
    paths, _ = bench.family(2)
    with pytest.raises(InvalidRecipe, match="rws needs one clean"):
        bench.merge(bench.recipe("rws", paths, per_model=[{"role": role} for role in roles]))


def write_coefficients(path: Path, values: dict[str, list[float]]) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(values))
    else:
        save_file({name: np.array(numbers, np.float32) for name, numbers in values.items()}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_coefficients_come_from_a_file_by_name(bench: Any, close: Close, suffix: str) -> None:
    paths, weights = bench.family(2)
    named = {name: [0.25 * position, -0.5] for position, name in enumerate(weights[0]) if "mlp" in name}
    file = write_coefficients(bench.root / f"c{suffix}", named)
    recipe = bench.recipe("atlas_apply", paths, per_model=[{"coefficient": 2}, {}], parameters={"file": file})
    with pytest.raises(InvalidRecipe, match=r"has no coefficients for it; coefficient: 0 keeps"):
        bench.merge(recipe, "refused")
    recipe = bench.recipe("atlas_apply", paths, parameters={"file": file, "coefficient": 2})
    expected = {}
    for name, base in weights[0].items():
        first, second = named.get(name, [2, 2])
        deltas = [(model[name] - base).astype(np.float64) for model in weights[1:]]
        expected[name] = base + first * deltas[0] + second * deltas[1]
    close(bench.merge(recipe), expected, "F32")


def test_coefficients_by_filter_need_no_file_and_default_to_the_base(bench: Any, close: Close) -> None:
    paths, weights = bench.family(1)
    recipe = bench.recipe("atlas_apply", paths, parameters={"coefficient": [{"filter": "mlp", "value": 0.5}]})
    expected = {
        name: base + (0.5 if "mlp" in name else 0) * (weights[1][name] - base).astype(np.float64)
        for name, base in weights[0].items()
    }
    close(bench.merge(recipe), expected, "F32")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.json", "[1]", "holds no coefficients"),
        ("c.json", '{"model.norm.weight": [1, "x"]}', "holds no coefficients"),
        ("c.json", '{"model.norm.weight": [1e999]}', "not a finite number"),
        ("c.safetensors", "nothing", "holds no coefficients"),
        ("c.txt", "{}", "neither a .json nor a .safetensors"),
        (None, "", "there is no file"),
        ("c.json", '{"model.norm.weight": [1, 2]}', "has 2 coefficients for it, and there are 1 models"),
    ],
)
def test_files_that_hold_no_coefficients_are_named(bench: Any, name: str | None, text: str, said: str) -> None:
    paths, _ = bench.family(1)
    file = bench.root / (name or "nowhere.json")
    if name is not None:
        file.write_text(text)
    with pytest.raises(InvalidRecipe, match=said):
        bench.merge(bench.recipe("atlas_apply", paths, parameters={"file": str(file), "coefficient": 1}))


def test_a_recipe_from_elsewhere_names_no_file(bench: Any) -> None:
    paths, _ = bench.family(1)
    recipe = bench.recipe("atlas_apply", paths, parameters={"file": [{"filter": "mlp", "value": "/etc/c.json"}]})
    with pytest.raises(InvalidRecipe, match=r"parameters.file.* cannot name a file"):
        plan(recipe, settings=Settings(), paths=False)
