"""Calls of `paged_store` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case, unwritten
from graftwork.kernels.dtypes import numpy_dtype

BATCHES: dict[str, tuple[list[tuple[int, int]], int, int, int, int]] = {
    "one token": ([(1, 1)], 1, 8, 8, 4),
    "ragged": ([(1, 17), (20, 33), (16, 16), (1, 1)], 2, 24, 40, 16),
    "odd": ([(7, 7), (1, 3), (5, 22)], 3, 5, 35, 3),
    "no sequences": ([], 2, 8, 8, 4),
}
"""Per batch the rows and positions of its sequences, heads, width, value width and tokens of a page."""


def cases(dtype: str) -> Iterator[Case]:
    """Rows that begin and end within pages, odd widths; what is not written is NaN."""
    for name, (spans, heads, width, value_width, page) in BATCHES.items():
        for writes in ("keys", "values"):
            yield _case(f"{writes} of {name}", spans, heads, width, value_width, page, dtype, writes)


def workload(dtype: str) -> Case:
    """31 single rows and a prompt of 64, 8 heads of width 64."""
    return _case("step", [*((1, 64 + 16 * s) for s in range(31)), (64, 64)], 8, 64, 64, 16, dtype, "keys")


def _case(
    name: str,
    spans: list[tuple[int, int]],
    heads: int,
    width: int,
    value_width: int,
    page: int,
    dtype: str,
    writes: str,
) -> Case:
    rng = np.random.default_rng(12)
    owned = [-(-length // page) for _, length in spans]
    order = rng.permutation(sum(owned)).astype(np.int32) + 1  # page 0 belongs to nobody
    table = np.zeros((len(spans), max(owned, default=1)), np.int32)
    for s, count in enumerate(owned):
        table[s, :count] = order[sum(owned[:s]) :][:count]
    rows, total = sum(count for count, _ in spans), sum(owned) + 1
    arguments = {
        "keys": unwritten(total * heads * width * page, dtype).reshape(total, heads, width, page),
        "values": unwritten(total * heads * value_width * page, dtype).reshape(total, heads, page, value_width),
        "key": rng.normal(size=(rows, heads, width)).astype(numpy_dtype(dtype)),
        "value": rng.normal(size=(rows, heads, value_width)).astype(numpy_dtype(dtype)),
        "pages": table,
        "spans": np.array(spans, np.int32).reshape(-1, 2),
    }
    return Case(name, arguments, writes=writes)
