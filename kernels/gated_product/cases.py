"""Calls of `gated_product` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case
from graftwork.kernels.dtypes import numpy_dtype

FAR = (0.0, -0.0, 30.0, -30.0, 86.9, -86.9, 88.3, 1000.0, 65000.0, np.inf, np.nan)
"""Where e^-x comes to its limits."""


def cases(dtype: str) -> Iterator[Case]:
    """Nothing, and sizes around the borders of blocks and of vectors, with numbers far from 0 at the end."""
    for size in (0, *SIZES):
        for activation in ("silu", "gelu_tanh"):
            yield _case(f"{activation} of {size}", (size,), activation, dtype)


def workload(dtype: str) -> Case:
    """A decode step of 32 sequences."""
    return _case("decode", (32, 8192), "silu", dtype)


def _case(name: str, shape: tuple[int, ...], activation: str, dtype: str) -> Case:
    rng = np.random.default_rng(21)
    gate, up = (rng.normal(0.0, 3.0, shape).astype(np.float32) for _ in range(2))
    if gate.size > len(FAR):
        gate.ravel()[-len(FAR) :] = FAR
    return Case(
        name, {"gate": gate.astype(numpy_dtype(dtype)), "up": up.astype(numpy_dtype(dtype)), "activation": activation}
    )
