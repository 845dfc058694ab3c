"""Calls of `rms_norm` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case
from graftwork.kernels.dtypes import numpy_dtype


def cases(dtype: str) -> Iterator[Case]:
    """No token, one and some; widths around the borders of blocks and of vectors."""
    for tokens, width in ((0, 16), *((1 + place % 3, width) for place, width in enumerate(SIZES))):
        yield _case(f"{tokens} of {width}", tokens, width, dtype)


def workload(dtype: str) -> Case:
    """A decode step of 32 sequences."""
    return _case("decode", 32, 2048, dtype)


def _case(name: str, tokens: int, width: int, dtype: str) -> Case:
    rng = np.random.default_rng(12)
    x, weight = (
        rng.normal(1.0, 1.0, shape).astype(np.float32).astype(numpy_dtype(dtype)) for shape in ((tokens, width), width)
    )
    return Case(name, {"x": x, "weight": weight, "eps": 1e-6})
