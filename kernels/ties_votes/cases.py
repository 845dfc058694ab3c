"""Calls of `ties_votes` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case
from graftwork.kernels.ties_combine.cases import trimmed


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, one to four inputs."""
    rng = np.random.default_rng(5)
    for size in SIZES:
        for count in (1, 2, 4):
            yield _case(rng, size, count, dtype)


def workload(dtype: str) -> Case:
    """Three models."""
    return _case(np.random.default_rng(5), 1 << 24, 3, dtype)


def _case(rng: np.random.Generator, size: int, count: int, dtype: str) -> Case:
    base, inputs, thresholds, cutoffs = trimmed(rng, size, count, dtype)
    arguments = {"base": base, "inputs": inputs, "thresholds": thresholds, "cutoffs": cutoffs, "offset": 10_000}
    return Case(f"{size}x{count}", arguments)
