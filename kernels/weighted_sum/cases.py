"""Calls of `weighted_sum` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, one to five inputs, with and without a base, another output dtype, a weight that is not exact."""
    rng = np.random.default_rng(1)
    for size, count in zip(SIZES, (1, 2, 3, 4, 5, 3), strict=True):
        for based in (False, True):
            yield _case(rng, size, count, dtype, based)
    yield _case(rng, 1000, 2, dtype, based=True, out_dtype="F32")
    yield _case(rng, 1000, 2, "F32", based=False, out_dtype=dtype)


def workload(dtype: str) -> Case:
    """Task arithmetic of three models."""
    return _case(np.random.default_rng(1), 1 << 24, 3, dtype, based=True)


def _case(
    rng: np.random.Generator, size: int, count: int, dtype: str, based: bool, out_dtype: str | None = None
) -> Case:
    base = weights(rng, size, dtype)
    arguments = {
        "out": unwritten(size, out_dtype or dtype),
        "inputs": [near(rng, base) for _ in range(count)],
        "weights": [0.3, -0.7, 1.0, 0.0, 2.5][:count],
        "base": base if based else None,
        "scale": 0.9 if based else 1.0,
    }
    return Case(f"{size}x{count}{'-base' if based else ''}", arguments, writes="out")
