"""The memory a merge reads into and computes in: one set for each thread, used again for every slice."""

from __future__ import annotations

import threading

import numpy as np

from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.slices import Array


class Buffers:
    """Flat arrays by role. An array is valid until the same thread asks for the same role again."""

    def __init__(self) -> None:
        self._local = threading.local()

    def array(self, role: str, dtype: str, length: int) -> Array:
        """An array of `length` elements of a safetensors dtype, with whatever was in it."""
        kept: dict[str, Array] = self._local.__dict__.setdefault("kept", {})
        kind = numpy_dtype(dtype)
        needed = length * kind.itemsize
        if role not in kept or kept[role].size < needed:
            kept[role] = np.empty(needed, np.uint8)
        return kept[role][:needed].view(kind)


def as_bytes(array: Array) -> memoryview:
    """The memory of a flat array."""
    return array.view(np.uint8).data
