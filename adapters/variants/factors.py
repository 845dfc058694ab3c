"""A module's change as two factors, and the tensors of an adapter's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import NonFiniteTensor
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.registry.formats.peft import WEIGHTS_FILE, AdapterLayout
from graftwork.registry.formats.safetensors import TensorInfo

Factor = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """One module's change of weight, b @ a; the adapter's scale is part of b."""

    a: Factor
    """[rank, in]"""
    b: Factor
    """[out, rank]"""

    @property
    def rank(self) -> int:
        """Number of units."""
        return int(self.a.shape[0])

    def delta(self) -> Factor:
        """The change itself, [out, in]."""
        product: Factor = self.b @ self.a
        return product


@dataclass(frozen=True, slots=True)
class RawFactors:
    """One module's factors as they were trained: its change of weight is scale * b @ a."""

    a: Factor
    """[rank, in]"""
    b: Factor
    """[out, rank]"""
    scale: float

    @property
    def rank(self) -> int:
        """Number of units."""
        return int(self.a.shape[0])


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """The factors of every adapted module, by the module's path in the base."""

    name: str
    modules: Mapping[str, LoraFactors]

    def delta(self, module: str) -> Factor:
        """The change of one module's weight, [out, in]."""
        return self.modules[module].delta()


def read_tensor(layout: AdapterLayout, info: TensorInfo) -> Factor:
    """A tensor of the adapter in float32. Raises NonFiniteTensor."""
    stored = read_stored(layout, info)
    factor: Factor = stored.astype(np.float32)
    if not np.isfinite(factor).all():
        path = layout.root / WEIGHTS_FILE
        raise NonFiniteTensor(tensor=info.name, path=str(path), count=int((~np.isfinite(factor)).sum()))
    return factor


def read_stored(layout: AdapterLayout, info: TensorInfo) -> NDArray[Any]:
    """A tensor of the adapter in its own dtype."""
    with (layout.root / WEIGHTS_FILE).open("rb") as file:
        file.seek(info.begin)
        return np.frombuffer(file.read(info.nbytes), numpy_dtype(info.dtype)).reshape(info.shape)
