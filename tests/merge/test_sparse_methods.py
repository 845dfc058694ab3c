"""DARE, DELLA, Model Breadcrumbs, SCE, NearSwap and Consensus against their formulas in float64."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from graftwork.errors import InvalidRecipe
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.run.intake import Intake
from graftwork.merge.slices.slices import GRAIN
from graftwork.settings import Settings

Doubles = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]
DTYPES = ["F32", "F16", "BF16"]
WEIGHTS = [0.75, -0.5, 0.3125]
SMALL = {"memory": GRAIN * 24, "threads": 1}
"""Room for slices of the least length: the large matrices of the bench are cut inside a row."""


def uniform(seed: int, tensor: str, model: int, count: int) -> Doubles:
    """The numbers that decide over a tensor's entries: Philox4x32-10 in numpy."""
    digest = hashlib.blake2b(f"{seed}\n{model}\n{tensor}".encode(), digest_size=8).digest()
    k0, k1 = np.frombuffer(digest, "<u4").astype(np.uint64)
    word = np.uint64(0xFFFFFFFF)
    c0 = np.arange(-(-count // 4), dtype=np.uint64)
    c1 = c2 = c3 = np.zeros_like(c0)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        high = [product >> np.uint64(32) for product in (second, first)]
        c0, c1, c2, c3 = high[0] ^ c1 ^ k0, second & word, high[1] ^ c3 ^ k1, first & word
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & word, (k1 + np.uint64(0xBB67AE85)) & word
    words = np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count]
    return (words >> np.uint64(8)).astype(np.float64) / 2**24


def deltas_of(weights: list[Tensors], name: str) -> Doubles:
    """float64 [models, entries], of differences taken in float32."""
    base = weights[0][name].astype(np.float32).reshape(-1)
    return np.stack([model[name].astype(np.float32).reshape(-1) - base for model in weights[1:]]).astype(np.float64)


def largest(magnitudes: Doubles, count: int) -> NDArray[np.bool_]:
    """The first `count` in descending order, equals by index."""
    kept = np.zeros(magnitudes.size, bool)
    kept[np.lexsort((np.arange(magnitudes.size), -magnitudes))[:count]] = True
    return kept


def chances(delta: Doubles, shape: tuple[int, ...], density: float, epsilon: float) -> Doubles:
    width = shape[-1] if shape else 1
    result = np.full(delta.size, density)
    if width > 1:
        for row in range(delta.size // width):
            part = slice(row * width, (row + 1) * width)
            ranks = np.empty(width)
            ranks[np.lexsort((-np.arange(width), np.abs(delta[part])))] = np.arange(width)
            result[part] = density - epsilon + 2 * epsilon * ranks / (width - 1)
    return result


def combined(kept: Doubles, weights: Doubles, vote: str, normalize: bool) -> Doubles:
    terms = weights[:, None] * kept
    if vote == "none":
        return np.asarray(terms.sum(axis=0) / (weights.sum() if normalize else 1.0))
    ballots = terms if vote == "weighted" else kept
    sign = np.where(ballots.sum(axis=0) >= 0, 1.0, -1.0)
    agree = np.sign(ballots) == sign
    divisor = (np.abs(weights)[:, None] * agree).sum(axis=0) if normalize else 1.0
    return np.asarray((terms * agree).sum(axis=0) / np.where(divisor == 0, 1.0, divisor))


def expected(weights: list[Tensors], merged: Callable[[str, Doubles], Doubles]) -> dict[str, Doubles]:
    return {
        name: base.astype(np.float64) + merged(name, deltas_of(weights, name)).reshape(base.shape)
        for name, base in weights[0].items()
    }


def rare(actual: Tensors, wanted: dict[str, Doubles], dtype: str) -> None:
    """Equal up to rounding, but for a few entries whose sum of ballots is 0 in one arithmetic and not in the other."""
    step = {"F32": 2.0**-21, "F16": 2.0**-9, "BF16": 2.0**-7}[dtype]
    for name, values in wanted.items():
        far = np.abs(actual[name].astype(np.float64) - values) > step * np.abs(values) + 2e-6
        assert far.sum() <= 1e-4 * values.size, name


def draw(method: str, weights: list[Tensors], seed: int, density: float) -> Callable[[str, Doubles], Doubles]:
    """The kept and rescaled deltas of dare and della."""

    def kept(name: str, deltas: Doubles) -> Doubles:
        rows = []
        for model, delta in enumerate(deltas):
            own = np.full(delta.size, density)
            if method.startswith("della"):
                own = chances(delta, weights[0][name].shape, density, 0.15)
            keep = uniform(seed, name, model, delta.size) < own.astype(np.float32)
            rows.append(np.where(keep, delta / own, 0.0))
        return np.array(rows)

    return kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_dare_and_della_are_their_formulas(bench: Any, method: str, dtype: str) -> None:
    paths, weights = bench.family(3, dtype)
    per_model = [{"weight": weight} for weight in WEIGHTS]
    parameters = {"density": 0.4, "lambda": 0.9}
    recipe = bench.recipe(method, paths, parameters=parameters, per_model=per_model, seed=7)
    kept = draw(method, weights, 7, 0.4)
    vote = "none" if method.endswith("linear") else "weighted"

    def formula(name: str, deltas: Doubles) -> Doubles:
        return 0.9 * combined(kept(name, deltas), np.array(WEIGHTS), vote, method == "della")

    rare(bench.merge(recipe), expected(weights, formula), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(("density", "gamma"), [(0.3, 0.1), (0.95, 0.2), (1.0, 0.05), (0.5, 0.0)])
def test_breadcrumbs_keeps_what_follows_the_largest(
    bench: Any, method: str, dtype: str, density: float, gamma: float
) -> None:
    paths, weights = bench.family(2, dtype)
    recipe = bench.recipe(method, paths, parameters={"density": density, "gamma": gamma, "weight": 0.7})

    def formula(name: str, deltas: Doubles) -> Doubles:
        count = deltas.shape[1]
        top = int(gamma * count)
        both = min(count, top + max(1, int(density * count)))
        keep = [largest(np.abs(delta), both) & ~largest(np.abs(delta), top) for delta in deltas]
        vote = "weighted" if method.endswith("ties") else "none"
        return combined(np.where(keep, deltas, 0.0), np.full(2, 0.7), vote, normalize=False)

    rare(bench.merge(recipe), expected(weights, formula), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("topk", [0.15, 1.0])
def test_sce_selects_weighs_and_erases(bench: Any, dtype: str, topk: float) -> None:
    paths, weights = bench.family(3, dtype)

    def formula(name: str, deltas: Doubles) -> Doubles:
        single = deltas.astype(np.float32)
        mean = (single[0] + single[1] + single[2]) / np.float32(3)
        spread = sum(((row - mean) ** 2 for row in single), np.zeros_like(mean)) / np.float32(3)
        if topk < 1:
            deltas = np.where(largest(spread.astype(np.float64), int(topk * np.count_nonzero(spread))), deltas, 0.0)
        squares = (deltas**2).mean(axis=1) if deltas.size else np.ones(3)
        total = squares.sum()
        return combined(deltas, squares / total if total else np.ones(3), "unweighted", normalize=True)

    recipe = bench.recipe("sce", paths, parameters={"select_topk": topk})
    rare(bench.merge(recipe), expected(weights, formula), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearswap_steps_no_further_than_t(bench: Any, close: Callable[..., None], dtype: str) -> None:
    paths, weights = bench.family(1, dtype)
    merged = bench.merge(bench.recipe("nearswap", paths, parameters={"t": 0.006}))
    close(merged, expected(weights, lambda _, deltas: np.clip(deltas[0], -0.006, 0.006)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("min_agree", [0, 1, 2, 3, 4])
def test_consensus_ta_masks_the_sum(bench: Any, dtype: str, min_agree: int) -> None:
    paths, weights = bench.family(3, dtype)
    parameters = {"lambda": 0.6, "mask_lambda": 0.35, "min_agree": min_agree}

    def formula(_: str, deltas: Doubles) -> Doubles:
        total = deltas.sum(axis=0)
        agree = (np.abs(deltas) > 0.35 * np.abs(total - deltas)).sum(axis=0)
        return 0.6 * np.where(agree >= min_agree, total, 0.0)

    rare(bench.merge(bench.recipe("consensus_ta", paths, parameters=parameters)), expected(weights, formula), dtype)


def test_consensus_ties_masks_the_disjoint_sum(bench: Any) -> None:
    paths, weights = bench.family(3)
    flat = np.concatenate([deltas_of(weights, name) for name in weights[0]], axis=1)
    kept = []
    for delta in np.abs(flat):
        threshold = np.sort(delta)[delta.size - int(0.3 * delta.size) - 1]
        kept.append(delta >= threshold)
    every = np.where(kept, flat, 0.0)
    majority = 1.0 if np.sign(every.sum(axis=0)).sum() >= 0 else -1.0
    sums = every.sum(axis=0)
    sign = np.where(sums == 0, majority, np.sign(sums))
    merged = np.where(np.sign(every) == sign, every, 0.0).sum(axis=0)
    agree = (np.abs(flat) > 0.4 * np.abs(merged - flat)).sum(axis=0)
    masked = np.where(agree >= 2, merged, 0.0)
    ends = np.cumsum([values.size for values in weights[0].values()])
    parts = dict(zip(weights[0], np.split(masked, ends[:-1]), strict=True))
    recipe = bench.recipe("consensus_ties", paths, parameters={"density": 0.3})
    rare(bench.merge(recipe), expected(weights, lambda name, _: parts[name]), "F32")


def test_the_consensus_modifier_makes_consensus_ta_of_task_arithmetic(bench: Any) -> None:
    paths, _ = bench.family(3, "BF16")
    modifiers = [{"consensus": {"min_agree": 2, "mask_lambda": 0.4}}]
    bench.merge(bench.recipe("task_arithmetic", paths, modifiers=modifiers), "modified")
    bench.merge(bench.recipe("consensus_ta", paths), "own")
    files = [(bench.root / folder / "model.safetensors").read_bytes() for folder in ("modified", "own")]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", ["dare_ties", "breadcrumbs", "della", "ties"])
def test_the_consensus_modifier_masks_any_merged_delta(bench: Any, method: str) -> None:
    paths, weights = bench.family(3)
    plain = bench.merge(bench.recipe(method, paths, parameters={"density": 0.4}), "plain")
    lines = {"lines": {"alpha": 0.5, "beta": 0}}
    modifiers = [{"consensus": {"min_agree": 1}}, lines]
    masked = bench.merge(bench.recipe(method, paths, parameters={"density": 0.4}, modifiers=modifiers), "masked")

    def formula(name: str, deltas: Doubles) -> Doubles:
        merged = plain[name].astype(np.float64).reshape(-1) - weights[0][name].reshape(-1)
        agree = (np.abs(deltas) > 0.4 * np.abs(merged - deltas)).sum(axis=0)
        return 0.5 * np.where(agree >= 1, merged, 0.0)

    rare(masked, expected(weights, formula), "F32")


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("dare_ties", {"density": 0.5}),
        ("della", {"density": 0.5}),
        ("breadcrumbs_ties", {"density": 0.5, "gamma": 0.1}),
        ("sce", {"select_topk": 0.2}),
        ("consensus_ties", {}),
        ("dare_linear", {"density": 0.5, "compat": "mergekit"}),
        ("della_linear", {"density": 0.5, "compat": "mergekit"}),
    ],
)
def test_neither_slices_nor_threads_change_a_byte(bench: Any, method: str, parameters: dict[str, Any]) -> None:
    base = {"model.layers.0.w": bench.random(1)["model.layers.0.mlp.weight"]}
    base["model.layers.0.long"] = np.linspace(-1, 1, 3 * GRAIN + 5, dtype=np.float32).astype(ml_dtypes.bfloat16)
    random = np.random.default_rng(2)
    models = [
        {name: (v.astype(np.float32) + 0.02 * random.normal(size=v.shape)).astype(v.dtype) for name, v in base.items()}
        for _ in range(3)
    ]
    paths = [bench.write(f"m{number}", tensors) for number, tensors in enumerate([base, *models])]
    more = {"compat": "mergekit"} if "compat" in parameters else {}
    given = {key: value for key, value in parameters.items() if key != "compat"}
    recipe = bench.recipe(method, paths, parameters=given, seed=3, **more)
    bench.merge(recipe, "large", threads=2)
    room = 2 if more or method in ("sce", "consensus_ties") else 1  # for what these compute in
    bench.merge(recipe, "small", memory=room * SMALL["memory"], threads=1)
    files = [(bench.root / folder / "model.safetensors").read_bytes() for folder in ("large", "small")]
    assert files[0] == files[1]


def test_slices_of_della_are_of_whole_rows_where_memory_holds_them(bench: Any) -> None:
    random = np.random.default_rng(6)
    tensors = [{"model.layers.0.w": random.normal(size=(300, 11 * 256)).astype(np.float32)} for _ in range(2)]
    paths = [bench.write(f"m{number}", each) for number, each in enumerate(tensors)]
    recipe = bench.recipe("della", paths, parameters={"density": 0.5})
    roomy, small = Settings(threads=2), Settings(threads=1, memory=24 * GRAIN)
    for settings, step in ((roomy, 11 * GRAIN), (small, 2 * GRAIN)):
        planned = plan(recipe, settings=settings)
        planned.close()
        assert isinstance(planned, Plan)
        assert Intake(planned).step(planned.tensors[0]) == step
    whole, divided = bench.merge(recipe, "whole"), bench.merge(recipe, "divided", **SMALL)
    assert (whole["model.layers.0.w"] == divided["model.layers.0.w"]).all()


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_a_head_that_is_stored_beside_its_embedding_stays_equal_to_it(bench: Any, method: str) -> None:
    random = np.random.default_rng(4)
    paths = []
    for number in range(3):
        embedding = random.normal(size=(40, 16)).astype(np.float32)
        tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}
        paths.append(bench.write(f"m{number}", tensors))
    recipe = bench.recipe(method, paths, parameters={"density": 0.5})
    merged = bench.merge(recipe, "apart")
    assert not np.array_equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])
    for path in paths:
        (Path(path) / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": True}))
    tied = bench.merge(recipe, "tied")
    np.testing.assert_array_equal(tied["lm_head.weight"], tied["model.embed_tokens.weight"])
    np.testing.assert_array_equal(tied["model.embed_tokens.weight"], merged["model.embed_tokens.weight"])


def test_the_consensus_modifier_lets_the_method_look_at_names_before_the_merge(bench: Any, tmp_path: Path) -> None:
    paths, _ = bench.family(2)
    save_file({"model.norm.weight": np.ones(3, np.float32)}, tmp_path / "coefficients.safetensors")
    parameters = {"file": str(tmp_path / "coefficients.safetensors"), "coefficient": 0.5}
    recipe = bench.recipe("atlas_apply", paths, parameters=parameters, modifiers=[{"consensus": {"min_agree": 1}}])
    with pytest.raises(InvalidRecipe, match="3 coefficients for it, and there are 2 models"):
        plan(recipe, settings=Settings())


@pytest.mark.parametrize("compat", [None, "mergekit"])
@pytest.mark.parametrize(
    "method", ["ties", "dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs", "breadcrumbs_ties"]
)
def test_a_model_of_density_0_adds_as_little_as_the_base(bench: Any, method: str, compat: str | None) -> None:
    paths, weights = bench.family(3)
    said: dict[str, Any] = {"seed": 3} if compat is None else {"seed": 3, "compat": compat}
    densities = [{"density": density, "weight": weight} for density, weight in zip((0.5, 0, 1), WEIGHTS, strict=True)]
    dropped = bench.merge(bench.recipe(method, paths, per_model=densities, **said), "dropped")
    densities[1] = {"density": 1, "weight": WEIGHTS[1]}
    alike = bench.recipe(method, [*paths[:2], paths[0], paths[3]], per_model=densities, **said)
    for name, tensor in bench.merge(alike, "alike").items():
        np.testing.assert_array_equal(dropped[name], tensor, name)
    nothing = bench.merge(bench.recipe(method, paths, parameters={"density": [0, 0]}, **said), "nothing")
    for name, tensor in weights[0].items():
        np.testing.assert_array_equal(nothing[name], tensor, name)


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("dare_linear", {"weight": 0.0, "normalize": True}, "sum to 0"),
        ("breadcrumbs", {"weight": 0.0, "normalize": True}, "sum to 0"),
        ("della", {"density": 0.1}, "epsilon below 0.1"),
        ("della_linear", {"density": 0.9, "epsilon": 0.2}, "outside 0..1"),
        ("dare_ties", {"density": -0.1}, "greater than or equal to 0"),
        ("breadcrumbs", {"gamma": 1}, "less than 1"),
        ("nearswap", {"t": 0}, "greater than 0"),
        ("consensus_ta", {"min_agree": -1}, "greater than or equal to 0"),
        ("sce", {"select_topk": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_parameters_are_refused(bench: Any, method: str, parameters: dict[str, Any], said: str) -> None:
    paths, _ = bench.family(1 if method == "nearswap" else 2)
    with pytest.raises(InvalidRecipe, match=said):
        bench.merge(bench.recipe(method, paths, parameters=parameters))


def test_the_consensus_modifier_needs_a_delta_and_is_given_once(bench: Any) -> None:
    paths, _ = bench.family(2)
    entry: dict[str, Any] = {"consensus": {}}
    with pytest.raises(InvalidRecipe, match="linear has none"):
        bench.merge(bench.recipe("linear", paths, modifiers=[entry]))
    with pytest.raises(InvalidRecipe, match="given once"):
        bench.merge(bench.recipe("ties", paths, modifiers=[entry, entry]))
    with pytest.raises(InvalidRecipe, match="either lines or consensus"):
        bench.merge(bench.recipe("ties", paths, modifiers=[{}]))
