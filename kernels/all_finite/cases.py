"""Calls of `all_finite` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case, weights

SINGLE = (2 - 2**-23) * 2.0**127
LARGEST = {"F64": SINGLE, "F32": SINGLE, "F16": 65504.0, "BF16": (2 - 2**-7) * 2.0**127}
"""The largest finite numbers of each dtype, in float32."""


def cases(dtype: str) -> Iterator[Case]:
    """Finite values up to the largest, and one that is not at either end and between."""
    rng = np.random.default_rng(11)
    for size in SIZES:
        x = weights(rng, size, dtype)
        x[size // 2] = LARGEST[dtype]
        yield Case(f"{size}", {"x": x})
        for place in sorted({0, size // 2, size - 1}):
            for value in (np.nan, np.inf, -np.inf):
                stained = x.copy()
                stained[place] = value
                yield Case(f"{size}-{value}-at-{place}", {"x": stained})


def workload(dtype: str) -> Case:
    """One large output."""
    return Case("output", {"x": weights(np.random.default_rng(11), 1 << 24, dtype)})
