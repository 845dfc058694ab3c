"""Calls of `nth_equal` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights

ONE = 0x3F800000


def cases(dtype: str) -> Iterator[Case]:
    """Untouched elements (pattern 0) and ones: the first, a late one, one too many."""
    rng = np.random.default_rng(3)
    for size in SIZES:
        base = weights(rng, size, dtype)
        for n in (0, 1, size // 8, size):
            yield Case(f"{size}-zero-{n}", {"x": near(rng, base), "base": base, "bits": 0, "n": n})
            yield Case(f"{size}-one-{n}", {"x": base, "base": None, "bits": ONE, "n": n})


def workload(dtype: str) -> Case:
    """A search to the end of a task vector."""
    rng = np.random.default_rng(3)
    base = weights(rng, 1 << 24, dtype)
    return Case("to the end", {"x": near(rng, base), "base": base, "bits": ONE, "n": 1 << 24})
