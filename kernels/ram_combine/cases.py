"""Calls of `ram_combine` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, one to five inputs, limits that none, some and all differences pass, a NaN."""
    rng = np.random.default_rng(10)
    for size, count in zip(SIZES, (1, 2, 3, 4, 5, 3), strict=True):
        for epsilon in (0.0, 1e-3, 10.0):
            yield _case(rng, size, count, epsilon, dtype)
    spoilt = _case(rng, 40, 2, 1e-3, dtype)
    spoilt.arguments["inputs"][0][3] = np.nan
    yield spoilt


def workload(dtype: str) -> Case:
    """Three models."""
    return _case(np.random.default_rng(10), 1 << 24, 3, 1e-3, dtype)


def _case(rng: np.random.Generator, size: int, count: int, epsilon: float, dtype: str) -> Case:
    base = weights(rng, size, dtype)
    arguments = {
        "out": unwritten(size, dtype),
        "base": base,
        "inputs": [near(rng, base) for _ in range(count)],
        "epsilon": epsilon,
        "boosts": [1.02, 1.0, 1.015, 1.3, 0.9][:count],
        "scale": 0.9,
    }
    return Case(f"{size}x{count} above {epsilon}", arguments, writes="out")
