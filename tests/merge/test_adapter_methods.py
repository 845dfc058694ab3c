"""Elementwise methods on the products of adapters, against dense float64 formulas, and PEFT's factor-wise modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from graftwork.adapters.algebra.algebra import cores, truncate
from graftwork.adapters.algebra.lowrank import is_exact, nearest
from graftwork.adapters.variants.lora import LoraFactors
from graftwork.errors import InvalidRecipe, InvalidSetting
from graftwork.merge.lora.products import LINEAR, Change, Changes, combine, measure_module, weights
from graftwork.merge.method import find_method, methods
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

Dense = dict[str, NDArray[np.float64]]
SIZES = {"model.layers.0.q": (7, 9), "model.layers.0.down": (12, 5), "model.layers.1.q": (7, 9)}


def adapter(root: Path, name: str, *, rank: int, alpha: float, seed: int, only: str = "") -> Dense:
    """Write an adapter by hand; returns its changes in float64."""
    random = np.random.default_rng(seed)
    (root / name).mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q", "down"]}
    config |= {"base_model_name_or_path": "acme/base"}
    (root / name / "adapter_config.json").write_text(json.dumps(config))
    tensors: dict[str, NDArray[np.float32]] = {}
    dense: Dense = {}
    for module, (out, width) in SIZES.items():
        if only not in module:
            continue
        a, b = random.normal(size=(rank, width)).astype("f4"), random.normal(size=(out, rank)).astype("f4")
        tensors |= {f"base_model.model.{module}.lora_{side}.weight": m for side, m in (("A", a), ("B", b))}
        dense[module] = alpha / rank * b.astype(np.float64) @ a.astype(np.float64)
    save_file(tensors, root / name / "adapter_model.safetensors")
    return dense


@pytest.fixture
def three(tmp_path: Path) -> list[Dense]:
    """Adapters a, b and c; c changes fewer modules."""
    return [
        adapter(tmp_path, "a", rank=2, alpha=3, seed=1),
        adapter(tmp_path, "b", rank=3, alpha=2, seed=2),
        adapter(tmp_path, "c", rank=2, alpha=2, seed=3, only="q"),
    ]


def run(root: Path, method: str, names: str = "abc", *, out: str = "out", memory: int = 10**9, **more: Any) -> Dense:
    """Merge adapters and multiply the result out."""
    raw = {"merge_method": method, "models": [{"model": str(root / name)} for name in names], **more}
    folder = merge(load_recipe(raw), out=root / out, settings=Settings(memory=memory))
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    changes = {}
    for name, a in tensors.items():
        if "lora_A" in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            assert config["rank_pattern"].get(module, config["r"]) == a.shape[0]
            changes[module] = tensors[name.replace("lora_A", "lora_B")].astype(np.float64) @ a.astype(np.float64)
    return changes


def rank_of(root: Path, out: str = "out") -> dict[str, int]:
    tensors = load_file(root / out / "adapter_model.safetensors")
    return {name.split(".lora_A")[0][17:]: a.shape[0] for name, a in tensors.items() if "lora_A" in name}


def stacked(three: list[Dense], module: str) -> NDArray[np.float64]:
    return np.stack([dense.get(module, np.zeros(SIZES[module])) for dense in three])


def check(got: Dense, expected: Dense) -> None:
    assert got.keys() == expected.keys()
    for module, values in expected.items():
        np.testing.assert_allclose(got[module], values, atol=3e-6 * max(1.0, np.abs(values).max()), err_msg=module)


def best(matrix: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    u, s, vt = np.linalg.svd(matrix)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def test_task_arithmetic_is_the_exact_sum_of_products(tmp_path: Path, three: list[Dense]) -> None:
    got = run(tmp_path, "task_arithmetic", parameters={"weight": 0.5, "lambda": 0.8})
    check(got, {module: 0.4 * stacked(three, module).sum(0) for module in SIZES})
    assert rank_of(tmp_path) == {"model.layers.0.q": 7, "model.layers.0.down": 5, "model.layers.1.q": 7}


def test_a_linear_merge_is_cut_to_the_rank_that_is_asked_for(tmp_path: Path, three: list[Dense]) -> None:
    got = run(tmp_path, "linear", output={"rank": 2})
    means = {module: stacked(three, module).mean(0) for module in SIZES}
    check(got, {module: best(mean, 2) for module, mean in means.items()})
    energy = json.loads((tmp_path / "out" / "energy.json").read_text())
    for module, mean in means.items():
        squares = np.linalg.svd(mean, compute_uv=False) ** 2
        assert energy[module] == pytest.approx(squares[:2].sum() / squares.sum(), rel=1e-5)


def dense_ties(deltas: NDArray[np.float64], density: float) -> NDArray[np.float64]:
    flat = deltas.reshape(len(deltas), -1)
    kept = np.zeros_like(flat)
    for row, values in zip(kept, flat, strict=True):
        chosen = np.argsort(-np.abs(values), kind="stable")[: max(1, int(density * values.size))]
        row[chosen] = values[chosen]
    sign = np.where(kept.sum(0) >= 0, 1.0, -1.0)
    agree = (kept * sign) > 0
    return np.asarray((kept * agree).sum(0) / np.maximum(agree.sum(0), 1)).reshape(deltas.shape[1:])


@pytest.mark.parametrize("rank", ["full", 3, None])
def test_ties_works_on_the_products_and_is_refactored(tmp_path: Path, three: list[Dense], rank: Any) -> None:
    got = run(tmp_path, "ties", parameters={"density": 0.4}, output={"rank": rank} if rank else {})
    expected = {}
    for module, size in SIZES.items():
        whole = dense_ties(stacked(three, module), 0.4)
        units = 7 if "q" in module else 5
        chosen = min(size) if rank == "full" else min(rank or units, *size)
        assert rank_of(tmp_path)[module] == chosen
        expected[module] = best(whole, chosen)
    check(got, expected)


def test_the_papers_ties_trims_all_modules_at_once(tmp_path: Path, three: list[Dense]) -> None:
    got = run(tmp_path, "ties", "ab", parameters={"density": 0.3, "variant": "paper"}, output={"rank": "full"})
    flat = np.stack([np.concatenate([dense[module].ravel() for module in SIZES]) for dense in three[:2]])
    kept = np.zeros_like(flat)
    for row, values in zip(kept, flat, strict=True):
        smallest = np.sort(np.abs(values))[values.size - int(0.3 * values.size) - 1]
        row[np.abs(values) >= smallest] = values[np.abs(values) >= smallest]
    total = kept.sum(0)
    sign = np.sign(total)
    sign[sign == 0] = 1.0 if np.sign(total).sum() >= 0 else -1.0
    agree = (kept * sign) > 0
    merged = (kept * agree).sum(0) / np.maximum(agree.sum(0), 1)
    ends = np.cumsum([out * width for out, width in SIZES.values()])
    parts = np.split(merged, ends[:-1])
    check(got, {module: part.reshape(SIZES[module]) for module, part in zip(SIZES, parts, strict=True)})


def test_slerp_goes_from_one_adapter_to_another(tmp_path: Path, three: list[Dense]) -> None:
    got = run(tmp_path, "slerp", "b", base_model=str(tmp_path / "a"), parameters={"t": 0.3})
    expected = {}
    for module in SIZES:
        x, y = three[0][module], three[1][module]
        angle = np.arccos((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
        expected[module] = (np.sin(0.7 * angle) * x + np.sin(0.3 * angle) * y) / np.sin(angle)
    check(got, expected)


def test_deltas_are_taken_from_an_adapter_that_is_the_base(tmp_path: Path, three: list[Dense]) -> None:
    lines = [{"lines": {"alpha": 0.5, "beta": 1.0}}]
    base = str(tmp_path / "a")
    got = run(tmp_path, "task_arithmetic", "bc", base_model=base, modifiers=lines)
    expected = {}
    for module in SIZES:
        first, *others = stacked(three, module)
        expected[module] = first + (0.5 if ".0." in module else 1.5) * sum(other - first for other in others)
    check(got, expected)
    check(run(tmp_path, "ties", "bc", base_model=base, out="more", output={"rank": "full"}), {
        module: first + dense_ties(np.stack([other - first for other in others]), 1.0)
        for module in SIZES
        for first, *others in [stacked(three, module)]
    })  # fmt: skip


def test_lines_scales_merged_matrices_with_depth(tmp_path: Path, three: list[Dense]) -> None:
    lines = [{"lines": {"alpha": 0.0, "beta": 2.0}}]
    got = run(tmp_path, "ties", modifiers=lines, output={"rank": "full"})
    check(got, {
        module: (0.0 if ".0." in module else 2.0) * dense_ties(stacked(three, module), 1.0) for module in SIZES
    })  # fmt: skip


def parameters_of(name: str) -> dict[str, Any]:
    """Values for the parameters that a method requires."""
    return {key: 0.4 for key, parameter in find_method(name).parameters.items() if parameter.required}


@pytest.mark.parametrize("name", sorted(name for name in LINEAR if name in methods()))
def test_methods_that_are_said_to_be_linear_are(name: str) -> None:
    """On factors they give what they give on the matrices themselves."""
    method = find_method(name)
    count = method.models[1] or 3
    random = np.random.default_rng(5)
    changes = [
        LoraFactors(random.normal(size=(2, 40)).astype("f4"), random.normal(size=(30, 2)).astype("f4"))
        for _ in range(count + 1)
    ]
    defaults = {key: parameter.default for key, parameter in method.parameters.items()} | parameters_of(name)
    values = {
        key: (defaults[key],) * count if parameter.per_model else defaults[key]
        for key, parameter in method.parameters.items()
    }
    bound = method.build(values)
    based = method.needs_base
    first = changes[0] if based else None
    matrices = Changes(
        "m", (30, 40), Change(40, factors=first) if first else None,
        tuple(Change(40, factors=pair) for pair in changes[1:]),
    )  # fmt: skip
    expected = combine(bound, matrices, measure_module(bound, matrices), 1.0)
    found = weights(bound, "m", first, changes[1:], based)
    sides = changes if based else changes[1:]
    got = sum(weight * pair.delta().astype(np.float64) for weight, pair in zip(found, sides, strict=True))
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


OTHERS = sorted(
    name
    for name, method in methods().items()
    if method.space in ("weight", "delta") and name not in LINEAR and name not in ("weight_matching", "rws")
)


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method_merges_adapters(tmp_path: Path, three: list[Dense], name: str) -> None:
    """And the result at full rank is what the method makes of the matrices."""
    method = find_method(name)
    names = "ab"[: method.models[1] or 2] if method.space == "delta" or not method.needs_base else "bc"
    base: dict[str, Any] = {"base_model": str(tmp_path / "a")} if method.space == "weight" and method.needs_base else {}
    got = run(tmp_path, name, names, parameters=parameters_of(name), output={"rank": "full"}, **base)
    assert got.keys() == SIZES.keys()
    assert all(np.isfinite(values).all() for values in got.values())


def test_the_plan_says_how_modules_are_merged(tmp_path: Path, three: list[Dense]) -> None:
    models = [{"model": str(tmp_path / name)} for name in "abc"]
    for method, count in (("ties", 3), ("linear", 0), ("lora_cat", 0)):
        planned = plan(load_recipe({"merge_method": method, "models": models}), settings=Settings())
        assert planned.summary()["as_matrices"] == count


def test_what_cannot_be_done_is_refused(tmp_path: Path, three: list[Dense]) -> None:
    with pytest.raises(InvalidRecipe, match=r"output\.rank: it is 9, and no module can have more than 7"):
        run(tmp_path, "linear", output={"rank": 9})
    with pytest.raises(InvalidRecipe, match=r"output\.rank: .*lora_svd has its own rule"):
        run(tmp_path, "lora_svd", output={"rank": 2})
    with pytest.raises(InvalidRecipe, match="must be an adapter like the models; none is given"):
        run(tmp_path, "slerp", "a", parameters={"t": 0.5})
    with pytest.raises(InvalidRecipe, match="linear has no use for one"):
        run(tmp_path, "linear", "b", base_model=str(tmp_path / "a"))
    with pytest.raises(InvalidRecipe, match="slerp takes 1 adapter besides the base; there are 2"):
        run(tmp_path, "slerp", "bc", base_model=str(tmp_path / "a"), parameters={"t": 0.5})
    with pytest.raises(InvalidSetting, match=r"memory is 2000.* for the module model"):
        run(tmp_path, "ties", memory=2000)
    with pytest.raises(InvalidRecipe, match=r"output\.rank: expected greater than or equal to 1"):
        load_recipe({"merge_method": "ties", "models": [{"model": "a"}], "output": {"rank": 0}})
    with pytest.raises(InvalidRecipe, match=r"lines\.alpha: expected a valid number"):
        load_recipe({"merge_method": "ties", "models": [{"model": "a"}], "modifiers": [{"lines": {"alpha": "x"}}]})
    assert not (tmp_path / "out").exists()


def test_a_merge_of_products_gives_the_same_bytes_again(tmp_path: Path, three: list[Dense]) -> None:
    for out in ("one", "two"):
        run(tmp_path, "dare_ties" if "dare_ties" in methods() else "ties", parameters={"density": 0.5}, out=out)
    files = [(tmp_path / out / "adapter_model.safetensors").read_bytes() for out in ("one", "two")]
    assert files[0] == files[1]


def test_a_large_matrix_is_approximated_nearly_as_well_as_can_be() -> None:
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.normal(size=(size, 300)))[0] for size in (1100, 4000))
    singular = 0.97 ** np.arange(300)
    matrix = ((left * singular) @ right.T).astype(np.float32)
    assert not is_exact(matrix.shape, 16)
    found = nearest(matrix, 16, seed=3, name="m")
    least = np.sqrt((singular[16:] ** 2).sum())
    assert np.linalg.norm(matrix - found.factors.delta()) < 1.002 * least
    assert found.energy == pytest.approx((singular[:16] ** 2).sum() / (singular**2).sum(), rel=1e-3)
    again = nearest(matrix, 16, seed=3, name="m").factors
    assert np.array_equal(again.a, found.factors.a)
    assert np.array_equal(again.b, found.factors.b)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_a_small_matrix_is_approximated_exactly(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for rank in (1, 4):
        found = nearest(matrix, rank, seed=0, name="m")
        np.testing.assert_allclose(found.factors.delta(), best(matrix.astype(np.float64), rank), atol=1e-5)
    assert np.array_equal(nearest(matrix, 6, seed=0, name="m").factors.delta(), matrix)
    zeros = nearest(np.zeros(shape, np.float32), 2, seed=0, name="m")
    assert zeros.energy == 1.0
    assert not zeros.factors.delta().any()


def test_cores_have_the_dot_products_of_the_changes() -> None:
    random = np.random.default_rng(0)
    pairs = [
        LoraFactors(random.normal(size=(r, 6)).astype("f4"), random.normal(size=(4, r)).astype("f4")) for r in (1, 2, 5)
    ]
    small = [core.ravel() for core in cores(pairs)]
    large = [pair.delta().astype(np.float64).ravel() for pair in pairs]
    for x, u in zip(small, large, strict=True):
        for y, v in zip(small, large, strict=True):
            assert x @ y == pytest.approx(u @ v, rel=1e-5)
    assert truncate(pairs[1], 2).energy == 1.0
