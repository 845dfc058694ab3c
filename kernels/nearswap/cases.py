"""Calls of `nearswap` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders; no step, a step shorter than most differences, one longer than all."""
    rng = np.random.default_rng(9)
    for size in SIZES:
        for t in (0.0, 0.001, 10.0):
            yield _case(rng, size, t, dtype)


def workload(dtype: str) -> Case:
    """One model."""
    return _case(np.random.default_rng(9), 1 << 24, 0.001, dtype)


def _case(rng: np.random.Generator, size: int, t: float, dtype: str) -> Case:
    base = weights(rng, size, dtype)
    arguments = {"out": unwritten(size, dtype), "base": base, "x": near(rng, base), "t": t, "scale": 0.9}
    return Case(f"{size}-{t}", arguments, writes="out")
