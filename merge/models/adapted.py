"""A model with a LoRA adapter merged in: W + s B A, computed in float32 for the elements that are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.variants.lora import load_module
from graftwork.errors import InputChanged
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Origin, Stamp, open_adapter, stamps_of
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located
from graftwork.registry.formats.peft import AdapterLayout, LoraModule, check_against_base
from graftwork.registry.formats.safetensors import DTYPE_BYTES

Matrix = NDArray[np.float32]
KEPT = 8
"""How many modules' factors stay in memory: slices come tensor by tensor, a few at a time."""


@dataclass(slots=True)
class AdaptedModel:
    """A reader of `inner` whose adapted weights are float32, and have the adapter's change added as they are read.

    Each element is float32(W) + float32(sum_k B[row, k] A[k, column]), the sum from left to right over the rank, so
    that it does not depend on where a slice begins. The product is never formed beyond the elements that are read.
    """

    origin: Origin
    inner: Reader
    adapter: AdapterLayout
    adapter_stamps: Mapping[str, Stamp]
    layout: CheckpointLayout
    modules: Mapping[str, LoraModule]
    _factors: OrderedDict[str, tuple[Matrix, Matrix]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def label(self) -> str:
        """What the recipe calls the model."""
        return self.origin.label

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """Those of the model and of the adapter."""
        return {**self.inner.stamps, **self.adapter_stamps}

    def read(self, tensor: Located, start: int, into: memoryview) -> None:
        """Fill `into` from the tensor's byte `start` on."""
        name = tensor.info.name
        if name not in self.modules:
            self.inner.read(tensor, start, into)
            return
        out = np.frombuffer(into, np.float32)
        first = start // out.itemsize
        stored = self.inner.layout.tensors[name]
        weight = np.empty(out.size, numpy_dtype(stored.info.dtype))
        self.inner.read(stored, first * DTYPE_BYTES[stored.info.dtype], weight.view(np.uint8).data)
        left, right = self._factors_of(name)
        change = np.empty_like(out)
        columns, done = right.shape[1], 0
        while done < out.size:
            row, column = divmod(first + done, columns)
            count = min(columns - column, out.size - done)
            terms = [right[unit, column : column + count] for unit in range(len(right))]
            weighted_sum(change[done : done + count], terms, [float(factor) for factor in left[row]])
            done += count
        np.add(weight.astype(np.float32), change, out=out)

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file of the model or of the adapter changed."""
        self.inner.check_unchanged()
        for name, stamp in self.adapter_stamps.items():
            if stamps_of(self.adapter.root, [name])[name] != stamp:
                raise InputChanged(path=str(self.adapter.root / name))

    def close(self) -> None:
        """Close the model's files and forget the factors."""
        with self._lock:
            self._factors.clear()
        self.inner.close()

    def _factors_of(self, tensor: str) -> tuple[Matrix, Matrix]:
        """Left [rows, rank] and right [rank, columns] of the change of a weight as it lies in the file."""
        with self._lock:
            if tensor not in self._factors:
                factors = load_module(self.adapter, self.modules[tensor].module)
                if self.adapter.config.fan_in_fan_out:
                    pair = np.ascontiguousarray(factors.a.T), np.ascontiguousarray(factors.b.T)
                else:
                    pair = factors.b, factors.a
                self._factors[tensor] = pair
                if len(self._factors) > KEPT:
                    self._factors.popitem(last=False)
            self._factors.move_to_end(tensor)
            return self._factors[tensor]


def adapt(inner: Reader, origin: Origin) -> AdaptedModel:
    """The reader of `origin`, a model with an adapter, over that of the model alone.

    Raises IncompatibleAdapter naming the module that does not fit, and what reading the adapter raises.
    """
    if origin.adapter is None:
        raise ValueError(f"{origin.label} has no adapter")
    adapter = open_adapter(origin.adapter)
    tensors = inner.layout.tensors
    shapes = {name: located.info for name, located in tensors.items()}
    check_against_base(adapter, shapes, adapter_name=origin.adapter.label, base_name=origin.label.rpartition("+")[0])
    modules = {f"{module.module}.weight": module for module in adapter.modules.values()}
    changed = {
        name: replace(located, info=replace(located.info, dtype="F32", end=located.info.begin + 4 * located.info.numel))
        for name, located in tensors.items()
        if name in modules
    }
    layout = replace(inner.layout, tensors={**tensors, **changed})
    return AdaptedModel(origin, inner, adapter, stamps_of(adapter.root, adapter.files), layout, modules)
