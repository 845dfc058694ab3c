"""Calls of `magnitudes_between` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, weights

EVERYTHING = (-1, 0x7FFFFFFF)
BRACKETS = (
    [EVERYTHING],
    [(0x3A800000, 0x3B000000)],
    [(0, 0x3B000000), (0x3B000000, 0x3B000000), (0x3A800000, 0x3B000000)],
)


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, with and without a base, brackets of all, some and no patterns, several, too little room."""
    rng = np.random.default_rng(3)
    for size in SIZES:
        for brackets in BRACKETS:
            base = weights(rng, size, dtype)
            counts = np.zeros((len(brackets), 4), np.int64)
            arguments = {"counts": counts, "x": near(rng, base)}
            for room, origin in ((size, None), (size, base), (size // 3, base)):
                name = f"{size}-{len(brackets)}-{brackets[0][1]:x}-{room}{'' if origin is None else '-base'}"
                case = {**arguments, "base": origin, "brackets": brackets}
                case["values"] = np.full((len(brackets), room), -5, np.int32)
                yield Case(name, case, writes="values")
                yield Case(f"{name}-counts", case, writes="counts")


def workload(dtype: str) -> Case:
    """Two brackets that hold a few of a hundred elements."""
    rng = np.random.default_rng(3)
    base = weights(rng, 1 << 24, dtype)
    arguments = {"counts": np.zeros((2, 4), np.int64), "values": np.zeros((2, 1 << 21), np.int32)}
    brackets = [(0x3B1A0000, 0x3B1F0000), (0x39A00000, 0x39C00000)]
    return Case("brackets", {**arguments, "x": near(rng, base), "base": base, "brackets": brackets})
