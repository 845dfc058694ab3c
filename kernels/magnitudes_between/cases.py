"""Calls of `magnitudes_between` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights

EVERYTHING = (-1, 0x7FFFFFFF)
BRACKETS = (EVERYTHING, (0x3A800000, 0x3B000000), (0, 0x3B000000), (0x3B000000, 0x3B000000))


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, with and without a base, brackets of all, some and no patterns, too little room."""
    rng = np.random.default_rng(3)
    for size in SIZES:
        for low, high in BRACKETS:
            base = weights(rng, size, dtype)
            arguments = {"counts": np.zeros(4, np.int64), "x": near(rng, base), "low": low, "high": high}
            for room, origin in ((size, None), (size, base), (size // 3, base)):
                name = f"{size}-{low:x}-{high:x}-{room}{'' if origin is None else '-base'}"
                case = {**arguments, "base": origin, "room": room}
                yield Case(name, case)
                yield Case(f"{name}-counts", case, writes="counts")


def workload(dtype: str) -> Case:
    """A bracket that holds a few of a hundred elements."""
    rng = np.random.default_rng(3)
    base = weights(rng, 1 << 24, dtype)
    arguments = {"counts": np.zeros(4, np.int64), "x": near(rng, base), "base": base}
    return Case("bracket", {**arguments, "low": 0x3B1A0000, "high": 0x3B1F0000, "room": 1 << 21})
