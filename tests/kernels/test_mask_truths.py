"""Philox against the known answers of its paper, ranks against sorting, masks against plain numpy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.kernels.consensus_combine import consensus_combine
from graftwork.kernels.dispatch import forced
from graftwork.kernels.nearswap import nearswap
from graftwork.kernels.philox import philox
from graftwork.kernels.rank_chances import rank_chances
from graftwork.kernels.sparse_combine import ByRank, Mask, sparse_combine
from graftwork.kernels.variance import variance

WORD = 0xFFFFFFFF


@pytest.fixture(params=["native", "reference"], autouse=True)
def twin(request: pytest.FixtureRequest) -> Any:
    with forced(request.param):
        yield request.param


def philox_block(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 as the paper writes it, in Python's integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & WORD, (first >> 32) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_definition_gives_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox_block(counter, key) == expected


@pytest.mark.parametrize("offset", [0, 1, 6, 1023, 2**34 - 3, 2**40 + 5])
@pytest.mark.parametrize("key", [0, 0x299F31D0_A4093822, 2**64 - 1])
def test_the_words_of_a_stream_are_philox_blocks_in_a_row(offset: int, key: int) -> None:
    out = np.zeros(300, np.int32)
    philox(out, key, offset)
    expected = []
    for index in range(offset, offset + 300):
        block = index // 4
        expected.append(philox_block((block & WORD, block >> 32, 0, 0), (key & WORD, key >> 32))[index % 4])
    np.testing.assert_array_equal(out.view(np.uint32), expected)


def test_a_stream_is_refused_outside_its_bounds() -> None:
    out = np.zeros(4, np.int32)
    for key, offset in ((-1, 0), (2**64, 0), (0, -1)):
        with pytest.raises(ValueError, match="expected 0"):
            philox(out, key, offset)
    with pytest.raises(ValueError, match="I32"):
        philox(np.zeros(4, np.float32), 0, 0)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(3, 1), (5, 2), (4, 700), (2, 2048), (1, 5000)])
def test_chances_rise_with_the_rank_in_the_row(rows: int, width: int, dtype: Any) -> None:
    random = np.random.default_rng(width)
    base, x = (random.normal(size=(rows, width)).astype(dtype) for _ in range(2))
    x[0, ::3] = base[0, ::3]
    out = np.full((rows, width), np.nan, np.float32)
    rank_chances(out, x, base, width, 0.25, 0.75)
    magnitudes = np.abs(x.astype(np.float32) - base.astype(np.float32))
    for row in range(rows):
        order = np.lexsort((-np.arange(width), magnitudes[row]))
        ranks = np.empty(width)
        ranks[order] = np.arange(width)
        expected = 0.25 + 0.5 * ranks / (width - 1) if width > 1 else np.full(1, 0.5)
        np.testing.assert_allclose(out[row], expected, atol=1e-6)


def test_rows_must_be_whole() -> None:
    with pytest.raises(ValueError, match="whole rows"):
        rank_chances(np.zeros(10, np.float32), np.zeros(10, np.float32), None, 3, 0.2, 0.8)


def test_a_mask_hides_no_broken_input() -> None:
    base = np.zeros(64, np.float32)
    x = np.ones(64, np.float32)
    x[[3, 40]] = np.nan, np.inf
    one = int(np.float32(1).view(np.int32))
    for mask in (Mask(chance=0.01, factor=None), Mask(ceiling=one, ceiling_cutoff=2**40), Mask(floor=2**31 - 1)):
        for vote in ("none", "weighted"):
            out = np.zeros(64, np.float32)
            sparse_combine(out, base, [x], [1.0], [mask], 0, vote=vote)
            assert np.isnan(out[3])
            assert not np.isfinite(out[40])
            assert np.isfinite(np.delete(out, [3, 40])).all()


def test_a_mask_is_its_definition() -> None:
    random = np.random.default_rng(0)
    base: NDArray[np.float32] = random.integers(-4, 5, 3000).astype(np.float32)
    x = base + random.integers(-4, 5, 3000).astype(np.float32)
    chances = random.random(3000, np.float32)
    ranked = np.empty(3000, np.float32)
    rank_chances(ranked, x, base, 750, 0.3, 0.7)
    words = np.zeros(3000, np.int32)
    philox(words, 77, 1001)
    uniform = (words.view(np.uint32) >> 8).astype(np.float64) / 2**24
    position = np.arange(1001, 4001)
    size = np.abs(x - base)
    two, three = (int(np.float32(value).view(np.int32)) for value in (2, 3))
    in_band = ((size > 2) | ((size == 2) & (position < 2000))) & ~((size > 3) | ((size == 3) & (position < 1500)))
    for mask, keep, factor in (
        (Mask(two, 2000, three, 1500), in_band, 1.0),
        (Mask(chance=0.375, key=77, factor=None), uniform < 0.375, 1 / 0.375),
        (Mask(chance=0, key=77, factor=None), uniform < 0, 1.0),
        (Mask(chance=chances, key=77, factor=None), uniform < chances, 1 / chances.astype(np.float64)),
        (Mask(two, 2000, three, 1500, chances, 77, 0.5), in_band & (uniform < chances), 0.5),
        (Mask(chance=ByRank(0.3, 0.7, 750), key=77, factor=None), uniform < ranked, 1 / ranked.astype(np.float64)),
    ):
        out = np.full(3000, np.nan, np.float32)
        sparse_combine(out, base, [x], [0.7], [mask], 1001, scale=2.0)
        expected = base + 2 * 0.7 * np.where(keep, (x - base) * factor, 0.0)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 100, 1500])
def test_rows_are_ranked_before_they_are_overwritten(width: int) -> None:
    random = np.random.default_rng(width)
    base, *inputs = (random.normal(size=3000).astype(ml_dtypes.bfloat16) for _ in range(3))
    masks = [Mask(chance=ByRank(0.2, 0.8, width), key=key, factor=None) for key in (5, 6)]
    expected = np.empty_like(base)
    sparse_combine(expected, base, inputs, [0.5, 0.7], masks, 0)
    for place in range(3):
        arrays = [base.copy(), *(values.copy() for values in inputs)]
        sparse_combine(arrays[place], arrays[0], arrays[1:], [0.5, 0.7], masks, 0)
        np.testing.assert_array_equal(arrays[place], expected)


def test_chances_and_options_are_checked() -> None:
    values = np.zeros(4, np.float32)
    refused: list[Any] = [-0.1, 1.5, np.zeros(4), np.zeros(3, np.float32), ByRank(0.0, 0.5, 2), ByRank(0.5, 1.5, 2)]
    for chance in refused:
        with pytest.raises(ValueError, match="chance"):
            sparse_combine(values, values, [values], [1.0], [Mask(chance=chance)], 0)
    with pytest.raises(ValueError, match="whole rows of 3"):
        sparse_combine(values, values, [values], [1.0], [Mask(chance=ByRank(0.4, 0.6, 3))], 0)
    with pytest.raises(ValueError, match="after a vote"):
        sparse_combine(values, values, [values], [1.0], [Mask()], 0, divide="weights")


def test_variance_and_consensus_and_nearswap_are_their_formulas() -> None:
    random = np.random.default_rng(1)
    base, *models = random.normal(size=(4, 1001)).astype(np.float32)
    deltas = np.stack([model.astype(np.float64) - base for model in models])
    out = np.full(1001, np.nan, np.float32)
    variance(out, base, models)
    np.testing.assert_allclose(out, deltas.var(axis=0), rtol=1e-5, atol=1e-6)
    total = deltas.sum(axis=0)
    agreeing = (np.abs(deltas) > 0.4 * np.abs(total - deltas)).sum(axis=0)
    consensus_combine(out, base, models, None, [0.4] * 3, 2, 0.5)
    np.testing.assert_allclose(out, base + 0.5 * np.where(agreeing >= 2, total, 0.0), rtol=1e-5, atol=1e-5)
    nearswap(out, base, models[0], 0.3, 0.5)
    np.testing.assert_allclose(out, base + 0.5 * np.clip(deltas[0], -0.3, 0.3), rtol=1e-5, atol=1e-6)


def test_consensus_is_strict_and_hides_no_nan() -> None:
    base = np.zeros(3, np.float32)
    models = [np.array([0, 1, np.nan], np.float32), np.array([0, 1, 1], np.float32)]
    out = np.ones(3, np.float32)
    consensus_combine(out, base, models, None, [1.0, 1.0], 1)
    assert out[:2].tolist() == [0.0, 0.0]
    assert np.isnan(out[2])
