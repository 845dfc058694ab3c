"""An example call of a kernel, shared by its test and its benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.kernels.dtypes import numpy_dtype

HostArray = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments of one call, by name, in the order of the signature."""

    name: str
    arguments: Mapping[str, Any]
    writes: str | None = None
    """The argument that the kernel writes; None when it returns its result."""

    @property
    def nbytes(self) -> int:
        """Bytes that the call must move at least once."""
        values = self.arguments.values()
        arrays = [item for value in values for item in (value if isinstance(value, list) else [value])]
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def weights(rng: np.random.Generator, size: int, dtype: str, deviation: float = 0.02) -> HostArray:
    """Values like those of a model, float32 rounded to `dtype`, salted with zeros of both signs and subnormals."""
    values = rng.normal(0.0, deviation, size).astype(np.float32)
    hard = np.array([0.0, -0.0, 1e-40, -1e-45, 6e-8, -6e-8, 1.0, -2.0], np.float32)
    where = rng.integers(0, max(size, 1), size // 16)
    values[where] = rng.choice(hard, where.size)
    return values.astype(numpy_dtype(dtype))


def near(rng: np.random.Generator, base: HostArray, deviation: float = 0.002) -> HostArray:
    """A fine-tune of `base`: the same dtype, small differences, a quarter of the elements untouched."""
    step = rng.normal(0.0, deviation, base.size) * (rng.random(base.size) < 0.75)
    moved: HostArray = np.where(step == 0.0, base.astype(np.float32), base.astype(np.float32) + step)
    return moved.astype(base.dtype)


def unwritten(size: int, dtype: str) -> HostArray:
    """An output in which a forgotten element shows: all NaN."""
    return np.full(size, np.nan, numpy_dtype(dtype))


SIZES = (1, 7, 255, 256, 257, 2049)
"""Around the borders of the 256-element blocks of the native twins."""
