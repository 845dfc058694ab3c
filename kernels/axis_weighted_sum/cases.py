"""Calls of `axis_weighted_sum` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Rows around the block borders, both axes, slices that begin within a row, with and without a base."""
    rng = np.random.default_rng(9)
    for size, columns in zip(SIZES, (1, 3, 255, 256, 300, 70), strict=True):
        for axis in ("row", "column"):
            yield _case(rng, size, columns, 0, 2, axis, dtype, based=False)
            yield _case(rng, size, columns, 65536, 3, axis, dtype, based=True)


def workload(dtype: str) -> Case:
    """Three task vectors with rows as in a language model."""
    return _case(np.random.default_rng(9), 1 << 24, 4096, 0, 3, "row", dtype, based=True)


def _case(
    rng: np.random.Generator, size: int, columns: int, offset: int, count: int, axis: str, dtype: str, *, based: bool
) -> Case:
    base = weights(rng, size, dtype)
    groups = columns if axis == "column" else -(-(offset + size) // columns)
    arguments = {
        "out": unwritten(size, dtype),
        "inputs": [near(rng, base) for _ in range(count)],
        "weights": rng.normal(size=(count, groups)).astype(np.float32),
        "columns": columns,
        "offset": offset,
        "axis": axis,
        "base": base if based else None,
        "scale": 0.9 if based else 1.0,
    }
    return Case(f"{size}x{count} by {axis} of {columns} from {offset}", arguments, writes="out")
