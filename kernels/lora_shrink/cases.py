"""Calls of `lora_shrink` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graftwork.kernels.case import Case, HostArray
from graftwork.kernels.dtypes import numpy_dtype

BATCHES: dict[str, tuple[list[int], list[int], int]] = {
    "one": ([0], [8], 64),
    "none": ([-1, -1, -1], [4], 33),
    "ranks": ([0, 0, 2, 1, -1, 2, 2, 2, 0], [3, 1, 17], 65),
    "empty slot": ([1, 1, 0, -1, 1], [0, 12], 512),
    "long": ([0] * 37 + [1] * 5, [16, 64], 513),
    "no tokens": ([], [4], 16),
    "no slots": ([-1, -1], [], 16),
}
"""Per batch the slot of each token, the rank of each slot and the width."""


def cases(dtype: str) -> Iterator[Case]:
    """Ranks that are not powers of two, empty and missing slots, runs, odd widths."""
    for name, (slots, ranks, width) in BATCHES.items():
        arguments = pool(np.random.default_rng(8), slots, ranks, width, dtype)
        yield Case(name, {"x": arguments["tokens"], "a": arguments["pool"], **arguments["slots"]})


def workload(dtype: str) -> Case:
    """A mixed batch of 64 tokens and 8 adapters of rank 16 on a layer 2048 wide."""
    arguments = pool(np.random.default_rng(8), [t // 8 for t in range(64)], [16] * 8, 2048, dtype)
    return Case("mixed", {"x": arguments["tokens"], "a": arguments["pool"], **arguments["slots"]})


def pool(rng: np.random.Generator, slots: list[int], ranks: list[int], width: int, dtype: str) -> dict[str, Any]:
    """Tokens and a pool whose slots lie in it in reverse order, with an unused row between them."""
    start = np.zeros(len(ranks), np.int32)
    rows = 1
    for s in reversed(range(len(ranks))):
        start[s] = rows
        rows += ranks[s] + 1
    return {
        "tokens": _matrix(rng, len(slots), width, dtype),
        "pool": _matrix(rng, rows, width, dtype),
        "slots": {"start": start, "rank": np.array(ranks, np.int32), "slot": np.array(slots, np.int32)},
    }


def _matrix(rng: np.random.Generator, rows: int, width: int, dtype: str) -> HostArray:
    return rng.normal(0.0, width**-0.5, (rows, width)).astype(np.float32).astype(numpy_dtype(dtype))
