"""Calls of `paged_attention` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case, HostArray
from graftwork.kernels.dtypes import numpy_dtype

BATCHES: dict[str, tuple[list[int], int, int, int, int, int]] = {
    "one token": ([1], 1, 1, 8, 4, 0),
    "ragged": ([1, 16, 17, 33, 5], 4, 2, 24, 16, 0),
    "odd": ([7, 3, 22], 6, 3, 5, 3, 0),
    "window": ([40, 9, 16, 17], 4, 1, 16, 8, 9),
    "wide": ([130, 65], 8, 2, 64, 16, 0),
    "no sequences": ([], 2, 2, 8, 4, 0),
}
"""Per batch the lengths, query heads, heads, width, tokens of a page and the window."""


def cases(dtype: str) -> Iterator[Case]:
    """Lengths around the borders of pages, shared heads, odd widths, windows; unwritten places hold NaN."""
    for name, (lengths, query_heads, heads, width, page, window) in BATCHES.items():
        yield _case(name, lengths, query_heads, heads, width, page, window, dtype)


def workload(dtype: str) -> Case:
    """32 sequences of 64 to 560 positions, 16 query heads over 8 of width 64."""
    return _case("decode", [64 + 16 * s for s in range(32)], 16, 8, 64, 16, 0, dtype)


def _case(
    name: str, lengths: list[int], query_heads: int, heads: int, width: int, page: int, window: int, dtype: str
) -> Case:
    rng = np.random.default_rng(12)
    owned = [-(-length // page) for length in lengths]
    order = rng.permutation(sum(owned)).astype(np.int32) + 1  # page 0 belongs to nobody
    table = np.zeros((len(lengths), max(owned, default=1)), np.int32)
    keys = np.full((sum(owned) + 1, heads, width, page), np.nan, np.float32)
    values = np.full((sum(owned) + 1, heads, page, width), np.nan, np.float32)
    at = 0
    for s, (length, count) in enumerate(zip(lengths, owned, strict=True)):
        table[s, :count] = order[at : at + count]
        for index in range(count):
            tokens = min(page, length - index * page)
            keys[table[s, index], :, :, :tokens] = rng.normal(size=(heads, width, tokens))
            values[table[s, index], :, :tokens] = rng.normal(size=(heads, tokens, width))
        at += count
    arguments = {
        "q": _rounded(rng.normal(size=(len(lengths), query_heads, width)), dtype),
        "keys": _rounded(keys, dtype),
        "values": _rounded(values, dtype),
        "pages": table,
        "lengths": np.array(lengths, np.int32),
        "scale": width**-0.5,
        "window": window,
    }
    return Case(name, arguments)


def _rounded(values: HostArray, dtype: str) -> HostArray:
    return values.astype(np.float32).astype(numpy_dtype(dtype))
