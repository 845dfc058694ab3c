"""Calls of `magnitude_histogram` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, with and without a base, both levels, a prefix that no element has."""
    rng = np.random.default_rng(2)
    for size in SIZES:
        for prefix in (None, 0, 0x3AFF, 0x3B03, 0x7FFF):
            base = weights(rng, size, dtype)
            x = near(rng, base)
            yield Case(f"{size}-p{prefix}", {"x": x, "base": None, "prefix": prefix})
            yield Case(f"{size}-p{prefix}-base", {"x": x, "base": base, "prefix": prefix})


def workload(dtype: str) -> Case:
    """The first pass over a task vector."""
    rng = np.random.default_rng(2)
    base = weights(rng, 1 << 24, dtype)
    return Case("first pass", {"x": near(rng, base), "base": base, "prefix": None})
