"""Calls of `linear` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case, HostArray
from graftwork.kernels.dtypes import numpy_dtype

SHAPES = {
    "one": (1, 64, 48),
    "few": (3, 33, 5),
    "odd": (71, 65, 67),
    "fours": (8, 512, 130),
    "none": (0, 16, 8),
}
"""Tokens, in, out."""


def cases(dtype: str) -> Iterator[Case]:
    """One token, tokens and widths that fill no vector and no tile, with and without a bias."""
    for number, (name, shape) in enumerate(SHAPES.items()):
        yield _case(name, *shape, dtype, biased=number % 2 == 1)


def workload(dtype: str) -> Case:
    """A decode step of 32 sequences through a layer of 2048 by 2048."""
    return _case("decode", 32, 2048, 2048, dtype, biased=False)


def _case(name: str, tokens: int, inner: int, out: int, dtype: str, *, biased: bool) -> Case:
    rng = np.random.default_rng(10)

    def normal(*shape: int) -> HostArray:
        return rng.normal(0.0, inner**-0.25, shape).astype(np.float32).astype(numpy_dtype(dtype))

    x, w = normal(tokens, inner), normal(out, inner)
    return Case(name, {"x": x, "w": w, "bias": normal(out) if biased else None})
