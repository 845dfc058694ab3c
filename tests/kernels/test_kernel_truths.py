"""Each kernel against a definition of its own: numpy in float64, or plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.kernels.abs_sum import abs_sum
from graftwork.kernels.dispatch import forced, native_module
from graftwork.kernels.gram import BLOCK, gram
from graftwork.kernels.lora_expand import lora_expand
from graftwork.kernels.lora_shrink import lora_shrink
from graftwork.kernels.magnitude_histogram import magnitude_histogram
from graftwork.kernels.nth_equal import nth_equal
from graftwork.kernels.ties_combine import KEEP_EQUAL, ties_combine
from graftwork.kernels.ties_votes import ties_votes
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.settings import load_settings

Matrix = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Matrix:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(params=["native", "reference"], autouse=True)
def twin(request: pytest.FixtureRequest) -> Any:
    with forced(request.param):
        yield request.param


def test_a_weighted_sum_is_the_formula_in_float64() -> None:
    base, *models = normal(0, 4, 1001)
    out = np.empty_like(base)
    weighted_sum(out, models, [0.5, -0.25, 2.0], base, 0.7)
    deltas = [w * (x.astype(np.float64) - base) for w, x in zip([0.5, -0.25, 2.0], models, strict=True)]
    np.testing.assert_allclose(out, base + 0.7 * np.sum(deltas, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_pattern_of_16_bits_survives_being_read_and_written(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    wide, back = np.empty(every.shape, np.float32), np.empty_like(every)
    weighted_sum(wide, [every], [1.0])
    weighted_sum(back, [wide], [1.0])
    number = ~np.isnan(every.astype(np.float32))
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    np.testing.assert_array_equal(back.view(np.uint16)[number], every.view(np.uint16)[number])
    assert np.isnan(back.astype(np.float32)[~number]).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_is_to_nearest_even_everywhere(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    ascending = np.unique(every[np.isfinite(every)])
    halfway = (ascending[:-1].astype(np.float64) + ascending[1:]) / 2
    values = np.concatenate([np.float32(halfway), np.nextafter(np.float32(halfway), np.float32(np.inf))])
    values = np.concatenate(
        [values, -values, np.array([65519, 65520, 3.39e38, 3.4e38, np.inf, -np.inf, np.nan], np.float32)]
    )
    out = np.empty(values.shape, dtype)
    weighted_sum(out, [values], [1.0])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out.astype(np.float32), values.astype(dtype).astype(np.float32))


def test_a_kernel_may_write_over_its_input() -> None:
    base, x = normal(1, 2, 1500)
    expected = np.empty_like(base)
    weighted_sum(expected, [x], [0.5], base)
    weighted_sum(base, [x], [0.5], base)
    np.testing.assert_array_equal(base, expected)


def test_two_histograms_give_the_exact_kth_magnitude() -> None:
    base, x = normal(2, 2, 5003).astype(ml_dtypes.bfloat16)
    magnitudes = np.abs(x.astype(np.float32) - base.astype(np.float32))
    for k in (1, 2, 777, 2500, 5003):
        high = magnitude_histogram(x, base)
        above = np.cumsum(high[::-1])[::-1]
        prefix = int(np.flatnonzero(above >= k)[-1])
        low = magnitude_histogram(x, base, prefix)
        rest = k - (above[prefix] - high[prefix])
        bits = prefix << 16 | int(np.flatnonzero(np.cumsum(low[::-1])[::-1] >= rest)[-1])
        assert np.int32(bits).view(np.float32) == np.partition(magnitudes, -k)[-k]


def test_a_histogram_is_the_bincount_of_the_bit_patterns() -> None:
    x = normal(3, 70_001)
    patterns = np.abs(x).view(np.int32)
    np.testing.assert_array_equal(magnitude_histogram(x), np.bincount(patterns >> 16, minlength=32768))
    under = patterns[patterns >> 16 == 0x3F80] & 0xFFFF
    np.testing.assert_array_equal(magnitude_histogram(x, prefix=0x3F80), np.bincount(under, minlength=65536))


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]), max_size=1100), st.integers(0, 600))
@settings(max_examples=40, deadline=None)
def test_the_nth_equal_is_the_nth_in_index_order(values: list[float], n: int) -> None:
    x = np.array(values, np.float32)
    ones = [i for i, value in enumerate(values) if abs(value) == 1.0]
    expected = ones[n] if n < len(ones) else -1 - len(ones)
    for twin_name in ("native", "reference"):
        with forced(twin_name):
            assert nth_equal(x, None, 0x3F800000, n) == expected


def slow_ties(
    base: float,
    values: list[float],
    weights: list[float],
    keep: list[bool],
    *,
    vote: str,
    divide: str,
    zero_sign: int,
) -> float:
    """One element of TIES, said as plainly as possible; exact for the small binary fractions used here."""
    terms = []
    for value, weight, kept in zip(values, weights, keep, strict=True):
        difference = value - base if kept else 0.0
        terms.append((weight * difference, weight * difference if vote == "weighted" else difference, weight))
    total = sum(ballot for _, ballot, _ in terms)
    positive = total > 0 if total != 0 else zero_sign >= 0
    agreeing = [(term, weight) for term, ballot, weight in terms if ballot != 0 and (ballot > 0) == positive]
    if not agreeing:
        return base
    added = sum(term for term, _ in agreeing)
    if divide == "max":
        return base + max(abs(term) for term, _ in agreeing) * (1 if positive else -1)
    divisor = {
        "weights": sum(abs(weight) for _, weight in agreeing),
        "signed_weights": sum(weight for _, weight in agreeing),
        "count": len(agreeing),
        "none": 1,
    }[divide]
    return base + added / (divisor or 1)


@given(
    st.lists(st.tuples(*[st.integers(-4, 4)] * 4), min_size=1, max_size=40),
    st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=3, max_size=3),
    st.sampled_from(["weighted", "unweighted"]),
    st.sampled_from(["weights", "signed_weights", "count", "none", "max"]),
    st.sampled_from([-1, 0, 1]),
    st.integers(0, 4),
    st.integers(0, 60),
)
@settings(max_examples=150, deadline=None)
def test_ties_is_the_formula_said_plainly(
    rows: list[tuple[int, ...]],
    weights: list[float],
    vote: Any,
    divide: Any,
    zero_sign: int,
    threshold: int,
    cutoff: int,
) -> None:
    offset = 20
    base, *inputs = np.array(rows, np.float32).T.copy() / 4
    bits = int(np.float32(threshold / 4).view(np.int32))
    cutoffs = [cutoff, 0, KEEP_EQUAL]
    expected = []
    for j, (origin, *values) in enumerate(zip(base, *inputs, strict=True)):
        keep = [
            abs(value - origin) > threshold / 4 or (abs(value - origin) == threshold / 4 and offset + j < limit)
            for value, limit in zip(values, cutoffs, strict=True)
        ]
        options = {"vote": vote, "divide": divide, "zero_sign": zero_sign}
        expected.append(slow_ties(float(origin), [float(v) for v in values], weights, keep, **options))
    for twin_name in ("native", "reference"):
        out = np.full_like(base, np.nan)
        with forced(twin_name):
            ties_combine(
                out,
                base,
                inputs,
                weights,
                [bits] * 3,
                cutoffs,
                offset,
                vote=vote,
                divide=divide,
                zero_sign=zero_sign,
            )
        np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_a_nan_is_not_hidden_by_ties() -> None:
    base = np.zeros(3, np.float32)
    models = [np.array([np.nan, np.inf, 1.0], np.float32), np.array([1.0, -np.inf, 1.0], np.float32)]
    for divide in ("weights", "count", "none", "max"):
        out = np.zeros(3, np.float32)
        ties_combine(out, base, models, [1.0, 1.0], [0, 0], [KEEP_EQUAL] * 2, 0, divide=divide)
        assert list(np.isnan(out)) == [True, True, False]


def test_votes_are_the_signs_of_the_sums_of_what_is_kept() -> None:
    base, *models = normal(4, 4, 3001)
    differences = np.stack([model - base for model in models])
    kept = np.where(np.abs(differences) >= 0.5, differences, 0.0).astype(np.float32)
    sums = kept[0] + kept[1] + kept[2]
    half = int(np.float32(0.5).view(np.int32))
    assert ties_votes(base, models, [half] * 3, [KEEP_EQUAL] * 3, 0) == int(np.sign(sums).sum())


def test_gram_and_abs_sum_are_the_sums_in_exact_arithmetic() -> None:
    base, *models = normal(5, 4, BLOCK + 1000)
    differences = [(model - base).astype(np.float64) for model in models]
    products, norms = gram(models, base), abs_sum(models[0], base)
    assert products.shape == (2, 3, 3)
    for block, part in enumerate((slice(0, BLOCK), slice(BLOCK, None))):
        assert norms[block] == pytest.approx(math.fsum(np.abs(differences[0][part])), rel=1e-13)
        for i in range(3):
            for j in range(3):
                exact = math.fsum(differences[i][part] * differences[j][part])
                assert products[block, i, j] == pytest.approx(exact, rel=1e-12, abs=1e-9)


def test_sums_do_not_depend_on_how_a_tensor_is_sliced() -> None:
    models = list(normal(6, 2, 3 * BLOCK + 77))
    parts = [slice(0, BLOCK), slice(BLOCK, 3 * BLOCK), slice(3 * BLOCK, None)]
    np.testing.assert_array_equal(np.concatenate([gram([m[p] for m in models]) for p in parts]), gram(models))
    np.testing.assert_array_equal(np.concatenate([abs_sum(models[0][p]) for p in parts]), abs_sum(models[0]))


def mixed_batch() -> tuple[Matrix, Matrix, Matrix, Matrix, Matrix, Matrix]:
    x, a, b = normal(7, 9, 100), normal(8, 40, 100), normal(9, 40, 70)
    start, rank = np.array([5, 0, 12], np.int32), np.array([7, 3, 28], np.int32)
    return x, a, b, start, rank, np.array([0, 0, 2, -1, 1, 2, 2, -1, 0], np.int32)


def test_shrink_and_expand_add_each_token_its_own_adapter() -> None:
    x, a, b, start, rank, slot = mixed_batch()
    y = normal(10, 9, 70)
    expected = y.astype(np.float64)
    for t, s in enumerate(slot):
        if s >= 0:
            rows = slice(start[s], start[s] + rank[s])
            expected[t] += (x[t].astype(np.float64) @ a[rows].T.astype(np.float64)) @ b[rows]
    lora_expand(y, lora_shrink(x, a, start, rank, slot), b, start, rank, slot)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-4)


def test_beyond_its_rank_a_token_is_zero() -> None:
    x, a, _, start, rank, slot = mixed_batch()
    h = np.asarray(lora_shrink(x, a, start, rank, slot, max_rank=30))
    assert h.shape == (9, 30)
    for t, s in enumerate(slot):
        assert not h[t, (rank[s] if s >= 0 else 0) :].any()


def test_a_token_has_the_same_bits_alone_and_in_any_batch() -> None:
    x, a, b, start, rank, slot = mixed_batch()
    with forced("native"):
        h = lora_shrink(x, a, start, rank, slot)
        y = np.ones((9, 70), np.float32)
        lora_expand(y, h, b, start, rank, slot)
        for t in range(9):
            one = slice(t, t + 1)
            alone = lora_shrink(x[one], a, start, rank, slot[one])
            np.testing.assert_array_equal(alone, h[one])
            out = np.ones((1, 70), np.float32)
            lora_expand(out, alone, b, start, rank, slot[one])
            np.testing.assert_array_equal(out, y[one])


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    module = native_module()
    assert module is not None
    yield module.set_threads
    module.set_threads(load_settings().threads)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_do_not_change_a_bit(threads: int, set_threads: Callable[[int], None]) -> None:
    x, a, b = normal(11, 300, 1100), normal(12, 64, 1100), normal(13, 64, 1300)
    start, rank, slot = (np.array(values, np.int32) for values in ([0, 40], [40, 24], [0] * 200 + [1] * 100))
    results = []
    for count in (1, threads):
        set_threads(count)
        with forced("native"):
            h, y = lora_shrink(x, a, start, rank, slot), np.zeros((300, 1300), np.float32)
            lora_expand(y, h, b, start, rank, slot)
        results.append((h, y))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)
