"""Thresholds against sorting, whatever the slices and whatever the values."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from graftwork.kernels.ties_combine import KEEP_EQUAL
from graftwork.merge.slices.slices import Slice
from graftwork.merge.statistics.magnitudes import Cut, DotProducts, LargestMagnitudes, SignMajority
from graftwork.merge.statistics.passes import Extent, Measuring

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)
FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0**-140])


def run(measuring: Measuring[Any], base: NDArray[Any], inputs: list[NDArray[Any]], length: int) -> Any:
    """Drive a statistic over slices of any length, last slice first."""
    while True:
        try:
            visit = next(measuring)
        except StopIteration as finished:
            return finished.value
        for start in reversed(range(0, base.size, length)):
            if visit.only in (None, start):
                stop = start + length
                visit.observe(Slice("w", start, base[start:stop], tuple(x[start:stop] for x in inputs)))


def kept(cut: Cut, position: int, delta: NDArray[np.float32]) -> NDArray[np.bool_]:
    bits = np.abs(delta).view(np.uint32).astype(np.int64)
    before = np.arange(delta.size) < cut.cutoffs[position]
    return np.asarray((bits > cut.thresholds[position]) | ((bits == cut.thresholds[position]) & before))


def arrays(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[np.float32]]:
    return st_numpy.arrays(np.float32, st.integers(1, 60), elements=values)


@settings(max_examples=150, deadline=None)
@given(arrays(st.one_of(FLOATS, FEW_VALUES)), st.floats(0.01, 0.99), st.integers(1, 30))
def test_exactly_k_of_the_largest_are_kept_the_first_of_equals(
    delta: NDArray[np.float32], density: float, length: int
) -> None:
    statistic = LargestMagnitudes((density,), exact=True, scope="tensor")
    cut = run(statistic.measure(Extent(delta.size, 1)), np.zeros_like(delta), [delta], length)
    order = np.lexsort((np.arange(delta.size), -np.abs(delta)))
    expected = np.zeros(delta.size, bool)
    expected[order[: max(1, int(density * delta.size))]] = True
    assert np.array_equal(kept(cut, 0, delta), expected)


@settings(max_examples=150, deadline=None)
@given(arrays(st.one_of(FLOATS, FEW_VALUES)), st.floats(0.01, 0.99), st.integers(1, 30))
def test_the_papers_threshold_is_numpys_order_statistic(
    delta: NDArray[np.float32], density: float, length: int
) -> None:
    statistic = LargestMagnitudes((density,), exact=False, scope="model")
    cut = run(statistic.measure(Extent(delta.size, 1)), np.zeros_like(delta), [delta], length)
    place = delta.size - int(density * delta.size) - 1
    threshold = np.partition(np.abs(delta), place)[place]
    assert np.array_equal(kept(cut, 0, delta), np.abs(delta) >= threshold)
    assert cut.cutoffs == (KEEP_EQUAL,)


def test_density_one_keeps_everything_without_a_pass() -> None:
    measuring = LargestMagnitudes((1.0, 1.0), exact=True, scope="tensor").measure(Extent(10, 2))
    with pytest.raises(StopIteration) as finished:
        next(measuring)
    assert finished.value.value == Cut((0, 0), (KEEP_EQUAL, KEEP_EQUAL))


def test_the_majority_counts_signs_and_not_mass() -> None:
    base = np.zeros(4, np.float32)
    inputs = [np.array([-9, 1, 1, 5], np.float32), np.array([-9, 1, 1, -5], np.float32)]
    statistic = SignMajority(LargestMagnitudes((1.0, 1.0), exact=False, scope="model"))
    assert run(statistic.measure(Extent(4, 2)), base, inputs, 2)[1] == 1
    inputs = [-array for array in inputs]
    assert run(statistic.measure(Extent(4, 2)), base, inputs, 2)[1] == -1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_dot_products_are_those_of_float64(dtype: Any) -> None:
    random = np.random.default_rng(0)
    base, model = (random.normal(size=200_003).astype(dtype) for _ in range(2))
    products = run(DotProducts().measure(Extent(base.size, 1)), base, [model], 65_536)
    both = np.stack([base, model]).astype(np.float64)
    np.testing.assert_allclose(products, both @ both.T, rtol=1e-12)
