"""Calls of `philox` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import SIZES, Case


def cases(dtype: str) -> Iterator[Case]:
    """Block borders, offsets inside a counter's four words, keys and counters of more than 32 bits."""
    del dtype  # the words have one
    for size in SIZES:
        for key, offset in ((0, 0), (0x9FD3_1234_5678_ABCD, 3), (2**64 - 1, 4 * 2**32 - 6)):
            yield _case(size, key, offset)


def workload(dtype: str) -> Case:
    """One stream."""
    del dtype
    return _case(1 << 24, 0x0123_4567_89AB_CDEF, 0)


def _case(size: int, key: int, offset: int) -> Case:
    arguments = {"out": np.full(size, -1, np.int32), "key": key, "offset": offset}
    return Case(f"{size}-{key:x}-{offset}", arguments, writes="out")
