"""Calls of `consensus_combine` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, near, unwritten, weights


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, no filter and an impossible one, the sum and a merged difference that was given."""
    rng = np.random.default_rng(8)
    for size in SIZES:
        for min_agree in (0, 1, 2, 4):
            for given in (False, True):
                yield _case(rng, size, (0.4, 0.2, 0.6), min_agree, dtype, given)
    yield _case(rng, 1000, (0.4,), 1, dtype, given=False)


def workload(dtype: str) -> Case:
    """Consensus task arithmetic of three models."""
    return _case(np.random.default_rng(8), 1 << 24, (0.4, 0.4, 0.4), 2, dtype, given=False)


def _case(
    rng: np.random.Generator, size: int, mask_lambdas: tuple[float, ...], min_agree: int, dtype: str, given: bool
) -> Case:
    base = weights(rng, size, dtype)
    arguments = {
        "out": unwritten(size, dtype),
        "base": base,
        "inputs": [near(rng, base) for _ in mask_lambdas],
        "merged": weights(rng, size, "F32", 0.004) if given else None,
        "mask_lambdas": list(mask_lambdas),
        "min_agree": min_agree,
        "scale": 0.9,
    }
    return Case(f"{size}x{len(mask_lambdas)}-{min_agree}{'-given' if given else ''}", arguments, writes="out")
