"""One delta at a time through DARE, DELLA, breadcrumbs and SCE: expectations, ties of magnitude, degenerate shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.merge.method import find_method
from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.passes import Extent

Doubles = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]
DTYPES = ["F32", "F16", "BF16"]
WEIGHTS = [0.75, -0.5, 0.3125]
SMALL = {"memory": GRAIN * 24, "threads": 1}
"""Room for slices of the least length: the large matrices of the bench are cut inside a row."""


def merge_delta(method: str, deltas: Doubles, shape: tuple[int, ...], seed: int, **values: Any) -> Doubles:
    """A method on one small tensor over a base of zeros."""
    found = find_method(method)
    count = len(deltas)
    every = {name: parameter.default for name, parameter in found.parameters.items()} | values
    compat = bool(every.pop("compat", False))
    every |= {
        name: (every[name],) * count
        for name, parameter in found.parameters.items()
        if parameter.per_model and not isinstance(every[name], tuple)
    }
    built = found.build(every, compat=compat)
    inputs = tuple(delta.astype(np.float32) for delta in deltas)
    piece = Slice("w", 0, np.zeros_like(inputs[0]), inputs, seed, shape)
    out = np.full_like(inputs[0], np.nan)
    measured = run(built.statistic(), piece)
    built.combine(out, piece, measured, 1.0)
    return np.asarray(out, np.float64)


def run(statistic: Any, piece: Slice) -> Any:
    if statistic is None:
        return None
    measuring = statistic.measure(Extent(piece.size, len(piece.inputs), piece.shape))
    while True:
        try:
            next(measuring).observe(piece)
        except StopIteration as finished:
            return finished.value


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_the_expectation_is_the_task_vector(method: str) -> None:
    delta = np.random.default_rng(0).normal(size=(1, 60))
    seeds = 3000
    drawn = np.stack([merge_delta(method, delta, (3, 20), seed, density=0.4) for seed in range(seeds)])
    least = 0.25 if method == "della_linear" else 0.4
    deviation = np.abs(delta[0]) * np.sqrt((1 - least) / least / seeds)
    assert (np.abs(drawn.mean(axis=0) - delta[0]) < 4.5 * deviation).all()
    plain = np.stack([merge_delta(method, delta, (3, 20), seed, density=0.4, rescale=False) for seed in range(50)])
    assert set(np.unique(plain)) <= {0.0, *np.unique(delta.astype(np.float32).astype(np.float64))}


def test_della_keeps_by_rank_and_models_are_drawn_apart() -> None:
    delta = np.random.default_rng(1).normal(size=40_000)
    out = merge_delta("della_linear", delta[None], (100, 400), 5, density=0.3, epsilon=0.2)
    ranks = np.abs(delta.reshape(100, 400)).argsort(axis=1).argsort(axis=1).ravel()
    chance = 0.3 - 0.2 + 2 * 0.2 * ranks / 399
    for low in (0.1, 0.2, 0.3, 0.4):
        inside = (chance >= low) & (chance < low + 0.1)
        assert abs((out != 0)[inside].mean() - chance[inside].mean()) < 4 * 0.5 / np.sqrt(inside.sum())
    masks = [merge_delta("dare_linear", np.stack([delta, delta]), (100, 400), 5, density=0.5, weight=w) != 0
             for w in ((1.0, 0.0), (0.0, 1.0))]  # fmt: skip
    assert abs((masks[0] & masks[1]).mean() - 0.25) < 0.015


def test_under_compat_one_factor_restores_the_norm() -> None:
    delta = np.random.default_rng(2).normal(size=(1, 4000))
    for method, shape in (("dare_linear", (4000,)), ("della_linear", (40, 100))):
        ours = merge_delta(method, delta, shape, 9, density=0.5)
        theirs = merge_delta(method, delta, shape, 9, density=0.5, compat=True)
        assert np.array_equal(ours != 0, theirs != 0)
        assert np.abs(theirs).sum() == pytest.approx(np.abs(delta).sum(), rel=1e-5)
        ratio = theirs[theirs != 0] / delta[0][theirs != 0]
        assert np.ptp(ratio) < 1e-5
        assert abs(ratio[0] - 2) > 1e-3


def test_under_compat_breadcrumbs_has_mergekits_range() -> None:
    delta = np.random.default_rng(3).permutation(np.arange(1.0, 201.0))[None]

    def kept(density: float, gamma: float, **more: Any) -> list[float]:
        return sorted(merge_delta("breadcrumbs", delta, (200,), 0, density=density, gamma=gamma, **more).nonzero()[0])

    assert kept(0.5, 0.1) == kept(0.5, 0.1, compat=True)
    assert len(kept(1.0, 0.1)) == 180
    assert len(kept(1.0, 0.1, compat=True)) == 200
    assert len(kept(0.95, 0.1)) == 180
    assert len(kept(0.95, 0.1, compat=True)) == 190
    assert len(kept(0.5, 0.001)) == 100
    assert kept(0.5, 0.001, compat=True) == kept(0.5, 0.001)
    assert kept(0.004, 0.1, compat=True) == []
    assert len(kept(0.004, 0.1)) == 1


def test_under_compat_sce_weighs_small_deltas_alike() -> None:
    deltas = np.array([[1e-4, 1e-4], [3e-4, 3e-4]])
    np.testing.assert_allclose(merge_delta("sce", deltas, (2,), 0, compat=True), 2e-4, rtol=1e-5)
    np.testing.assert_allclose(merge_delta("sce", deltas, (2,), 0), 2.8e-4, rtol=1e-5)


def test_equal_magnitudes_are_ordered_by_index() -> None:
    delta = np.array([[1.0, -1.0] * 50])
    out = merge_delta("breadcrumbs", delta, (100,), 0, density=0.3, gamma=0.2)
    assert out.nonzero()[0].tolist() == list(range(20, 50))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "sce"])
@pytest.mark.parametrize("shape", [(), (1,), (7, 1), (5, 3), (0, 4)])
def test_degenerate_tensors_are_merged(method: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    values = {"select_topk": 0.5} if method == "sce" else {"density": 0.5}
    for deltas in (np.zeros((2, size)), np.ones((2, size))):
        out = merge_delta(method, deltas, shape, 1, **values)
        assert np.isfinite(out).all()
        if not deltas.any():
            assert not out.any()
