"""LiNeS: the merged delta scaled with depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftwork.errors import InvalidRecipe
from graftwork.merge.plan.plan import plan
from graftwork.merge.run.folder.folder import write_folder
from graftwork.settings import Settings


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("method", ["ties", "task_arithmetic"])
def test_lines_with_alpha_one_and_beta_zero_changes_no_bit(bench: Any, method: str, dtype: str) -> None:
    paths, _ = bench.family(2, dtype)
    bench.merge(bench.recipe(method, paths, parameters={"lambda": 0.7}), "plain")
    lines = [{"lines": {"alpha": 1, "beta": 0}}]
    bench.merge(bench.recipe(method, paths, parameters={"lambda": 0.7}, modifiers=lines), "scaled")
    files = [(bench.root / folder / "model.safetensors").read_bytes() for folder in ("plain", "scaled")]
    assert files[0] == files[1]


def test_each_block_has_its_coefficient_and_the_rest_has_alpha(bench: Any) -> None:
    paths, weights = bench.family(2)
    lines = [{"lines": {"alpha": 0.2, "beta": 0.6}}]
    merged = bench.merge(bench.recipe("task_arithmetic", paths, modifiers=lines))
    coefficients = {"model.layers.0": 0.2, "model.layers.1": 0.5, "model.layers.2": 0.8}
    for name, base in weights[0].items():
        factor = next((value for block, value in coefficients.items() if name.startswith(block)), 0.2)
        delta = sum(model[name].astype(np.float64) - base for model in weights[1:])
        np.testing.assert_allclose(merged[name], base + factor * delta, rtol=1e-6, atol=1e-6)


def test_a_single_block_has_alpha_plus_beta(bench: Any) -> None:
    base = {"model.layers.0.w": np.zeros(4, np.float32), "head.weight": np.zeros(4, np.float32)}
    model = {name: np.ones(4, np.float32) for name in base}
    paths = [bench.write("base", base), bench.write("model", model)]
    lines = [{"lines": {"alpha": 0.25, "beta": 0.5}}]
    merged = bench.merge(bench.recipe("ties", paths, modifiers=lines))
    assert merged["model.layers.0.w"].tolist() == [0.75] * 4
    assert merged["head.weight"].tolist() == [0.25] * 4


@pytest.mark.parametrize("variant", ["mergekit", "paper"])
def test_alpha_auto_is_the_ratio_of_norms_over_the_number_of_models(bench: Any, variant: str) -> None:
    paths, weights = bench.family(3)
    parameters = {"density": 0.3, "variant": variant, "lambda": 0.8}
    plain = bench.merge(bench.recipe("ties", paths, parameters=parameters), "plain")
    before = sum(
        np.abs(sum((model[name] - base).astype(np.float64) for model in weights[1:])).sum()
        for name, base in weights[0].items()
    )
    after = sum(np.abs(plain[name].astype(np.float64) - base).sum() for name, base in weights[0].items())
    lines = [{"lines": {"alpha": "auto", "beta": 0.4}}]
    planned = plan(bench.recipe("ties", paths, parameters=parameters, modifiers=lines), settings=Settings())
    report = write_folder(planned, bench.root / "scaled")
    assert report.lines_alpha == pytest.approx(before / after / 3, rel=1e-4)
    assert report.lines_alpha is not None
    scaled = bench.read(bench.root / "scaled")
    base = weights[0]["model.layers.1.mlp.weight"]
    expected = base + (report.lines_alpha + 0.2) * (plain["model.layers.1.mlp.weight"].astype(np.float64) - base)
    np.testing.assert_allclose(scaled["model.layers.1.mlp.weight"], expected, rtol=1e-5, atol=1e-5)


def test_alpha_auto_of_plain_task_arithmetic_is_one_in_t(bench: Any) -> None:
    paths, _ = bench.family(4)
    lines = [{"lines": {"alpha": "auto", "beta": 0}}]
    planned = plan(bench.recipe("task_arithmetic", paths, modifiers=lines), settings=Settings())
    assert write_folder(planned, Path(bench.root, "scaled")).lines_alpha == 0.25


def test_lines_needs_a_delta(bench: Any) -> None:
    paths, _ = bench.family(1)
    with pytest.raises(InvalidRecipe, match="linear has none"):
        plan(bench.recipe("linear", paths, modifiers=[{"lines": {"alpha": 1, "beta": 0}}]), settings=Settings())
