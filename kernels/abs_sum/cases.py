"""Calls of `abs_sum` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights


def cases(dtype: str) -> Iterator[Case]:
    """Borders of both kinds of blocks, with and without a base."""
    rng = np.random.default_rng(7)
    for size in (*SIZES, 65535, 65536, 65537, 150_000):
        base = weights(rng, size, dtype)
        x = near(rng, base)
        yield Case(f"{size}", {"x": x, "base": None})
        yield Case(f"{size}-base", {"x": x, "base": base})


def workload(dtype: str) -> Case:
    """One task vector."""
    rng = np.random.default_rng(7)
    base = weights(rng, 1 << 24, dtype)
    return Case("task vector", {"x": near(rng, base), "base": base})
