"""Calls of `rotary_embedding` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case
from graftwork.kernels.dtypes import numpy_dtype


def cases(dtype: str) -> Iterator[Case]:
    """No token, one and some; halves around the borders of vectors and of blocks."""
    for tokens, heads, width in ((0, 2, 8), (1, 1, 2), (3, 2, 30), (5, 3, 64), (2, 1, 96), (2, 2, 514)):
        yield _case(f"{tokens} of {heads} of {width}", tokens, heads, width, dtype)


def workload(dtype: str) -> Case:
    """A chunk of a prompt."""
    return _case("prompt", 512, 16, 128, dtype)


def _case(name: str, tokens: int, heads: int, width: int, dtype: str) -> Case:
    rng = np.random.default_rng(22)
    x, angles = rng.normal(0.0, 2.0, (tokens, heads, width)), rng.uniform(-4.0, 4.0, (tokens, width))
    arrays = {"x": x, "cos": np.cos(angles), "sin": np.sin(angles)}
    return Case(name, {key: array.astype(np.float32).astype(numpy_dtype(dtype)) for key, array in arrays.items()})
