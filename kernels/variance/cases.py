"""Calls of `variance` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, one to five inputs."""
    rng = np.random.default_rng(10)
    for size in SIZES:
        for count in (1, 2, 3, 5):
            yield _case(rng, size, count, dtype)


def workload(dtype: str) -> Case:
    """Three models."""
    return _case(np.random.default_rng(10), 1 << 24, 3, dtype)


def _case(rng: np.random.Generator, size: int, count: int, dtype: str) -> Case:
    base = weights(rng, size, dtype)
    inputs = [near(rng, base) for _ in range(count)]
    return Case(f"{size}x{count}", {"out": unwritten(size, "F32"), "base": base, "inputs": inputs}, writes="out")
