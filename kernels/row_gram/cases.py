"""Calls of `row_gram` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights


def cases(dtype: str) -> Iterator[Case]:
    """Rows shorter and longer than blocks of both kinds, slices that begin within a row, with and without a base."""
    rng = np.random.default_rng(8)
    for size in SIZES:
        for columns, offset, count in ((1, 0, 1), (33, 0, 2), (100, 65536, 3), (5000, 65536, 2)):
            yield _case(rng, size, columns, offset, count, dtype)
    yield _case(rng, 140_000, 3_001, 65536, 2, dtype)
    yield _case(rng, 140_000, 70_000, 0, 2, dtype)


def workload(dtype: str) -> Case:
    """Three task vectors with rows as in a language model."""
    return _case(np.random.default_rng(8), 1 << 24, 4096, 0, 3, dtype)


def _case(rng: np.random.Generator, size: int, columns: int, offset: int, count: int, dtype: str) -> Case:
    base = weights(rng, size, dtype)
    arguments = {
        "inputs": [near(rng, base) for _ in range(count)],
        "columns": columns,
        "offset": offset,
        "base": base if count > 1 else None,
    }
    return Case(f"{size}x{count}-rows of {columns} from {offset}", arguments)
