"""A statistic measured over arrays in memory, as the merge engine measures it over files."""

from __future__ import annotations

from typing import Any

import numpy as np

from graftwork.merge.slices.slices import GRAIN, Slice
from graftwork.merge.statistics.passes import Extent


def measured(statistic: Any, shape: tuple[int, ...], inputs: list[Any], base: Any = None, length: int = GRAIN) -> Any:
    """The result of a statistic over whole arrays, driven over slices of `length`, the last one first."""
    flat = [np.ravel(x) for x in inputs]
    origin = None if base is None else np.ravel(base)
    measuring = statistic.measure(Extent(flat[0].size, len(flat), shape))
    while True:
        try:
            visit = next(measuring)
        except StopIteration as finished:
            return finished.value
        for start in reversed(range(0, flat[0].size, length)):
            stop = start + length
            own = None if origin is None else origin[start:stop]
            visit.observe(Slice("w", start, own, tuple(x[start:stop] for x in flat), 0, shape))
