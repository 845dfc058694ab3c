"""Calls of `ties_combine` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graftwork.kernels.case import SIZES, Case, HostArray, near, unwritten, weights
from graftwork.kernels.ties_combine import DIVIDES, KEEP_EQUAL, VOTES


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, cutoffs before, inside and after a slice, exact cancellation, every vote and divisor."""
    rng = np.random.default_rng(4)
    for size in SIZES:
        for divide in DIVIDES:
            for vote in VOTES:
                options = {"scale": 0.9, "vote": vote, "divide": divide, "zero_sign": -1 if size % 2 else 1}
                yield _case(rng, size, (0.5, -0.4, 1.0), dtype, options)
    yield _case(rng, 1000, (1.0,), dtype, {})
    yield _case(rng, 1000, (0.0, 0.0), dtype, {})
    yield _case(rng, 1000, (1.0,) * 9, dtype, {"vote": "unweighted", "divide": "count"})


def workload(dtype: str) -> Case:
    """Three models."""
    return _case(np.random.default_rng(4), 1 << 24, (0.5, 0.3, 0.2), dtype, {})


def _case(
    rng: np.random.Generator, size: int, coefficients: tuple[float, ...], dtype: str, options: dict[str, Any]
) -> Case:
    base, inputs, thresholds, cutoffs = trimmed(rng, size, len(coefficients), dtype)
    arguments = {
        "out": unwritten(size, dtype),
        "base": base,
        "inputs": inputs,
        "weights": list(coefficients),
        "thresholds": thresholds,
        "cutoffs": cutoffs,
        "offset": 10_000,
    }
    name = f"{size}x{len(coefficients)}-{'-'.join(map(str, options.values()))}"
    return Case(name, arguments | options, writes="out")


def trimmed(
    rng: np.random.Generator, size: int, count: int, dtype: str
) -> tuple[HostArray, list[HostArray], list[int], list[int]]:
    """A base, fine-tunes (the second opposes the first in places), thresholds that occur, cutoffs around the slice."""
    base = weights(rng, size, dtype)
    inputs = [near(rng, base) for _ in range(count)]
    if count > 1:
        mirrored = (2 * base.astype(np.float32) - inputs[0].astype(np.float32)).astype(base.dtype)
        inputs[1] = np.where(rng.random(size) < 0.3, mirrored, inputs[1])
    thresholds = []
    for x in inputs:
        magnitudes = np.abs(x.astype(np.float32) - base.astype(np.float32))
        thresholds.append(int(np.sort(magnitudes.view(np.int32))[size // 2]))
    cutoffs = [(10_000 + size // 2, KEEP_EQUAL, 0, 10_000 + size // 3)[i % 4] for i in range(count)]
    return base, inputs, thresholds, cutoffs
