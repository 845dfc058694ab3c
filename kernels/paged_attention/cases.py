"""Calls of `paged_attention` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case, HostArray
from graftwork.kernels.dtypes import numpy_dtype

BATCHES: dict[str, tuple[list[tuple[int, int]], int, int, int, int, int]] = {
    "one token": ([(1, 1)], 1, 1, 8, 4, 0),
    "single rows": ([(1, 1), (1, 16), (1, 17), (1, 33), (1, 5)], 4, 2, 24, 16, 0),
    "odd": ([(7, 7), (1, 3), (2, 22)], 6, 3, 5, 3, 0),
    "window": ([(3, 40), (9, 9), (1, 16), (17, 17)], 4, 1, 16, 8, 9),
    "wide": ([(1, 130), (65, 65), (3, 70)], 8, 2, 64, 16, 0),
    "no sequences": ([], 2, 2, 8, 4, 0),
}
"""Per batch the rows and positions of its sequences, query heads, heads, width, tokens of a page and the window."""


def cases(dtype: str) -> Iterator[Case]:
    """Lengths around the borders of pages, shared heads, odd widths, windows; unwritten places hold NaN."""
    for name, (spans, query_heads, heads, width, page, window) in BATCHES.items():
        yield _case(name, spans, query_heads, heads, width, page, window, dtype)


def workload(dtype: str) -> Case:
    """31 single rows after 64 to 544 positions and a prompt of 64, 16 query heads over 8 of width 64."""
    return _case("step", [*((1, 64 + 16 * s) for s in range(31)), (64, 64)], 16, 8, 64, 16, 0, dtype)


def _case(
    name: str,
    spans: list[tuple[int, int]],
    query_heads: int,
    heads: int,
    width: int,
    page: int,
    window: int,
    dtype: str,
) -> Case:
    rng = np.random.default_rng(12)
    owned = [-(-length // page) for _, length in spans]
    order = rng.permutation(sum(owned)).astype(np.int32) + 1  # page 0 belongs to nobody
    table = np.zeros((len(spans), max(owned, default=1)), np.int32)
    keys = np.full((sum(owned) + 1, heads, width, page), np.nan, np.float32)
    values = np.full((sum(owned) + 1, heads, page, width), np.nan, np.float32)
    at = 0
    for s, ((_, length), count) in enumerate(zip(spans, owned, strict=True)):
        table[s, :count] = order[at : at + count]
        for index in range(count):
            tokens = min(page, length - index * page)
            keys[table[s, index], :, :, :tokens] = rng.normal(size=(heads, width, tokens))
            values[table[s, index], :, :tokens] = rng.normal(size=(heads, tokens, width))
        at += count
    arguments = {
        "q": _rounded(rng.normal(size=(sum(rows for rows, _ in spans), query_heads, width)), dtype),
        "keys": _rounded(keys, dtype),
        "values": _rounded(values, dtype),
        "pages": table,
        "spans": np.array(spans, np.int32).reshape(-1, 2),
        "scale": width**-0.5,
        "window": window,
    }
    return Case(name, arguments)


def _rounded(values: HostArray, dtype: str) -> HostArray:
    return values.astype(np.float32).astype(numpy_dtype(dtype))
