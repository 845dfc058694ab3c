"""The memory a merge reads into and computes in: one set for each thread, used again for every slice."""

from __future__ import annotations

import threading
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.arrays import empty, reinterpreted
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.merge.slices.slices import Array

HostArray = NDArray[Any]
HOST: HostArray = np.empty(0, np.uint8)


class Buffers:
    """Flat arrays by role. An array is valid until the same thread asks for the same role again."""

    def __init__(self) -> None:
        self._local = threading.local()

    @overload
    def array(self, role: str, dtype: str, length: int) -> HostArray: ...
    @overload
    def array(self, role: str, dtype: str, length: int, like: Array) -> Array: ...
    def array(self, role: str, dtype: str, length: int, like: Array = HOST) -> Array:
        """An array of `length` elements of a safetensors dtype, with whatever was in it, on the device of `like`."""
        kept: dict[tuple[str, type], Array] = self._local.__dict__.setdefault("kept", {})
        key = role, type(like)
        needed = length * numpy_dtype(dtype).itemsize
        if key not in kept or len(kept[key]) < needed:
            kept[key] = empty((needed,), "U8", like)
        array: Array = reinterpreted(kept[key][:needed], dtype)
        return array


def as_bytes(array: HostArray) -> memoryview:
    """The memory of a flat array."""
    return array.view(np.uint8).data
