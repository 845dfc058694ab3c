"""Calls of `gram` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights


def cases(dtype: str) -> Iterator[Case]:
    """Borders of both kinds of blocks, one to four inputs, with and without a base."""
    rng = np.random.default_rng(6)
    for size in (*SIZES, 65535, 65536, 65537, 150_000):
        for count, based in ((1, False), (2, True), (4, False)):
            yield _case(rng, size, count, dtype, based)


def workload(dtype: str) -> Case:
    """Three task vectors."""
    return _case(np.random.default_rng(6), 1 << 24, 3, dtype, based=True)


def _case(rng: np.random.Generator, size: int, count: int, dtype: str, based: bool) -> Case:
    base = weights(rng, size, dtype)
    inputs = [near(rng, base) for _ in range(count)]
    return Case(f"{size}x{count}", {"inputs": inputs, "base": base if based else None})
