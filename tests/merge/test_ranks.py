"""Order statistics of magnitudes against sorting, by brackets and by histograms, whatever the values."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graftwork.merge.slices.slices import Slice
from graftwork.merge.statistics import ranks
from graftwork.merge.statistics.passes import Extent, Measuring
from graftwork.merge.statistics.ranks import Selection, cut_equals, settle

SIZE = 200_003
LENGTH = 65_536


def values(kind: str) -> NDArray[Any]:
    random = np.random.default_rng(0)
    normal = random.normal(size=SIZE).astype(np.float32)
    if kind == "smooth":
        return normal
    if kind == "coarse":
        return normal.astype(ml_dtypes.bfloat16)
    if kind == "few":
        return np.round(normal).astype(np.float32)
    if kind == "zeros":
        return np.where(random.random(SIZE) < 0.9, np.float32(0), normal)
    if kind == "sorted":
        return np.sort(normal)
    if kind == "sudden":  # what the sample does not see: a bracket that misses
        spread = np.full(SIZE, 1.0, np.float32)
        spread[np.arange(SIZE) % 256 >= 64] = 2 + random.random(int(np.count_nonzero(np.arange(SIZE) % 256 >= 64)))
        return spread
    return normal[:1000]


def drive(measuring: Measuring[Any], x: NDArray[Any]) -> Any:
    while True:
        try:
            visit = next(measuring)
        except StopIteration as finished:
            return finished.value
        for start in reversed(range(0, x.size, LENGTH)):
            if visit.only in (None, start):
                visit.observe(Slice("w", start, None, (x[start : start + LENGTH],)))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("kind", ["smooth", "coarse", "few", "zeros", "sorted", "sudden", "small"])
def test_ranks_are_those_of_a_sort(kind: str, resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "SMALL", 2000)
    x = values(kind)
    magnitudes = np.abs(x.astype(np.float32))
    from_above = np.sort(magnitudes)[::-1]
    wanted = {rank: Selection(rank) for rank in (1, 2, x.size // 100, x.size // 5, x.size // 2, x.size - 1, x.size)}
    inputs = dict.fromkeys(wanted, 0)
    drive(settle(wanted, inputs, Extent(x.size, 1, resident=resident)), x)
    cutoffs = drive(cut_equals(wanted, inputs), x)
    for rank, selection in wanted.items():
        threshold = from_above[rank - 1]
        assert np.array([selection.bits], np.int32).view(np.float32)[0] == threshold
        assert selection.equal == np.count_nonzero(magnitudes == threshold)
        assert selection.wanted == rank - np.count_nonzero(magnitudes > threshold)
        if selection.wanted < selection.equal:
            assert cutoffs[rank] == np.flatnonzero(magnitudes == threshold)[selection.wanted - 1] + 1


def test_few_elements_are_collected_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample, one pass, and no histogram, for what real deltas look like."""

    def never(*arguments: Any) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(ranks, "SMALL", 2000)
    monkeypatch.setattr(ranks, "magnitude_histogram", never)
    x = values("coarse")
    drive(settle({0: Selection(SIZE // 5)}, {0: 0}, Extent(SIZE, 1, resident=True)), x)
