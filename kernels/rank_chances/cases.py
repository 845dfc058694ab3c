"""Calls of `rank_chances` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Rows shorter and longer than a block, of one element, all equal; both sizes of digit."""
    rng = np.random.default_rng(7)
    for rows, width in ((1, 1), (5, 1), (7, 2), (3, 255), (2, 256), (1, 257), (2, 2500)):
        for based in (False, True):
            yield _case(rng, rows, width, dtype, based)
    same = weights(rng, 300, dtype)
    yield Case("same", {"out": unwritten(300, "F32"), "x": same, "base": same, "width": 100, "low": 0.2, "high": 0.8})


def workload(dtype: str) -> Case:
    """One task vector in rows of 4096."""
    return _case(np.random.default_rng(7), 1 << 12, 1 << 12, dtype, based=True)


def _case(rng: np.random.Generator, rows: int, width: int, dtype: str, based: bool) -> Case:
    base = weights(rng, rows * width, dtype)
    arguments = {
        "out": unwritten(rows * width, "F32"),
        "x": near(rng, base),
        "base": base if based else None,
        "width": width,
        "low": 0.35,
        "high": 0.65,
    }
    return Case(f"{rows}x{width}{'-base' if based else ''}", arguments, writes="out")
