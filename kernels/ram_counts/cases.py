"""Calls of `ram_counts` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, one to five inputs, limits that none, some and all differences pass."""
    rng = np.random.default_rng(11)
    for size, count in zip(SIZES, (1, 2, 3, 4, 5, 3), strict=True):
        for epsilon in (0.0, 1e-3, 10.0):
            yield _case(rng, size, count, epsilon, dtype)


def workload(dtype: str) -> Case:
    """Three models."""
    return _case(np.random.default_rng(11), 1 << 24, 3, 1e-3, dtype)


def _case(rng: np.random.Generator, size: int, count: int, epsilon: float, dtype: str) -> Case:
    base = weights(rng, size, dtype)
    inputs = [near(rng, base) for _ in range(count)]
    return Case(f"{size}x{count} above {epsilon}", {"base": base, "inputs": inputs, "epsilon": epsilon})
