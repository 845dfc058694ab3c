"""A model with an adapter merged in, computed in float32 as it is read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from graftwork.adapters.variants.lora import load_module
from graftwork.adapters.variants.variant import Variant, read_variant
from graftwork.errors import IncompatibleAdapter, InputChanged
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.models.layers import HEAD
from graftwork.merge.models.readers import Reader
from graftwork.merge.models.sources import Origin, Stamp, open_adapter, stamps_of
from graftwork.registry.formats.adapters.kinds import EMBEDDING_KINDS, FOLDABLE, Kind
from graftwork.registry.formats.adapters.names import by_every_name, names_in
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located
from graftwork.registry.formats.peft import check_against_base
from graftwork.registry.formats.safetensors import DTYPE_BYTES

Matrix = NDArray[np.float32]
KEPT_FACTORS = 8
"""Modules whose factors stay in memory: slices come tensor by tensor, a few at a time."""
KEPT_TENSORS = 2
"""Tensors that were computed whole and stay in memory."""
PASS_ON_BIAS = (Kind.IA3_OUTPUT, Kind.HYDRA)
"""Kinds that change what a layer puts out, its bias too."""
T = TypeVar("T")


class _Kept(Generic[T]):
    """The last few results by tensor, each made once, whichever thread asks first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: OrderedDict[str, T] = OrderedDict()
        self._lock = Lock()

    def get(self, tensor: str, make: Callable[[str], T]) -> T:
        with self._lock:
            if tensor not in self._found:
                self._found[tensor] = make(tensor)
                if len(self._found) > self._most:
                    self._found.popitem(last=False)
            self._found.move_to_end(tensor)
            return self._found[tensor]

    def clear(self) -> None:
        with self._lock:
            self._found.clear()


@dataclass(slots=True)
class AdaptedModel:
    """A reader of `inner` whose adapted weights and biases are float32, with the adapter's change in them.

    Where the change is a product of two factors, each element is float32(W) + float32(sum_k B[row, k] A[k, column]),
    the sum from left to right over the rank, so that it does not depend on where a slice begins; the product is never
    formed beyond the elements that are read. Other changed tensors (DoRA, IA3, trained biases ...) are computed whole,
    and the last two of them are kept.
    """

    origin: Origin
    inner: Reader
    adapter: Variant
    adapter_stamps: Mapping[str, Stamp]
    layout: CheckpointLayout
    products: Mapping[str, str]
    """The module of each weight that changes by a product of factors, by the tensor's name."""
    wholes: Mapping[str, str]
    """The module of each weight or bias that changes otherwise."""
    _factors: _Kept[tuple[Matrix, Matrix]] = field(default_factory=lambda: _Kept(KEPT_FACTORS))
    _computed: _Kept[Matrix] = field(default_factory=lambda: _Kept(KEPT_TENSORS))

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
        if name in self.products:
            self._read_product(name, start // DTYPE_BYTES["F32"], np.frombuffer(into, np.float32))
        elif name in self.wholes:
            computed = self._computed.get(name, self._compute)
            into[:] = computed.reshape(-1).view(np.uint8).data[start : start + len(into)]
        else:
            self.inner.read(tensor, start, into)

    def check_unchanged(self) -> None:
        """Raise InputChanged if a file of the model or of the adapter changed."""
        self.inner.check_unchanged()
        root = self.adapter.layout.root
        for name, stamp in self.adapter_stamps.items():
            if stamps_of(root, [name])[name] != stamp:
                raise InputChanged(path=str(root / name))

    def close(self) -> None:
        """Close the model's files and forget what was computed."""
        self._factors.clear()
        self._computed.clear()
        self.inner.close()

    def _read_product(self, name: str, first: int, out: Any) -> None:
        """Elements from `first` on of a weight that changes by a product."""
        weight = self._stored(name, first, out.size)
        left, right = self._factors.get(name, self._factors_of)
        change = np.empty_like(out)
        columns, done = right.shape[1], 0
        while done < out.size:
            row, column = divmod(first + done, columns)
            count = min(columns - column, out.size - done)
            terms = [right[unit, column : column + count] for unit in range(len(right))]
            weighted_sum(change[done : done + count], terms, [float(factor) for factor in left[row]])
            done += count
        np.add(weight, change, out=out)

    def _factors_of(self, tensor: str) -> tuple[Matrix, Matrix]:
        """Left [rows, rank] and right [rank, columns] of the change of a weight as it lies in the file."""
        factors = load_module(self.adapter.layout, self.products[tensor])
        if self._is_transposed(tensor):
            return np.ascontiguousarray(factors.a.T), np.ascontiguousarray(factors.b.T)
        return factors.b, factors.a

    def _compute(self, tensor: str) -> Matrix:
        """A weight or bias in full, with its change, as it lies in the file."""
        adapter, module, parameter = self.adapter, self.wholes[tensor], tensor.rpartition(".")[2]
        part = adapter.layout.parts[module]
        if not part.tensors and (own := adapter.own(module, parameter)) is not None:
            return own
        is_transposed = self._is_transposed(tensor) and part.kind not in EMBEDDING_KINDS
        stored = self._whole(f"{tensor.rpartition('.')[0]}.weight")
        w0 = stored.T if is_transposed else stored
        if parameter == "bias":
            return np.ascontiguousarray(adapter.bias(module, w0, self._whole(tensor)), np.float32)
        weight = adapter.weight(module, w0)
        return np.ascontiguousarray(weight.T if is_transposed else weight, np.float32)

    def _is_transposed(self, tensor: str) -> bool:
        """Whether the layer of a weight or bias is a Conv1D; the head never is."""
        return self.adapter.layout.config.fan_in_fan_out and HEAD.search(tensor) is None

    def _whole(self, tensor: str) -> Matrix:
        info = self.inner.layout.tensors[tensor].info
        return self._stored(tensor, 0, info.numel).reshape(info.shape)

    def _stored(self, tensor: str, first: int, count: int) -> Matrix:
        """Elements of a tensor of the model alone, in float32."""
        located = self.inner.layout.tensors[tensor]
        stored = np.empty(count, numpy_dtype(located.info.dtype))
        self.inner.read(located, first * DTYPE_BYTES[located.info.dtype], stored.view(np.uint8).data)
        return stored.astype(np.float32)


def adapt(inner: Reader, origin: Origin) -> AdaptedModel:
    """The reader of `origin`, a model with an adapter, over that of the model alone.

    Raises IncompatibleAdapter naming the module that does not fit, and what reading the adapter raises.
    """
    if origin.adapter is None:
        raise ValueError(f"{origin.label} has no adapter")
    adapter = open_adapter(origin.adapter)
    tensors = inner.layout.tensors
    name, base = origin.adapter.label, origin.label.rpartition("+")[0]
    called = names_in(tensors, adapter.parts)
    shapes = by_every_name({called: at.info for called, at in tensors.items()}, adapter.parts)
    check_against_base(adapter, shapes, adapter_name=name, base_name=base)
    products, wholes = {}, {}
    for module, part in adapter.parts.items():
        owns = {role.removeprefix("base_layer.") for role in part.own}
        weight, bias = (f"{called.get(module, module)}.{parameter}" for parameter in ("weight", "bias"))
        if module in adapter.foldable and "weight" not in owns:
            products[weight] = module
        elif "weight" in owns or (part.tensors and part.kind not in FOLDABLE):
            wholes[weight] = module
        if "bias" in owns or any(role.endswith("bias") for role in part.tensors):
            if bias not in tensors:
                reason = f"it trains a bias of {module!r}, and the base has none to merge it into"
                raise IncompatibleAdapter(adapter=name, base=base, reason=reason)
            wholes[bias] = module
        elif part.kind in PASS_ON_BIAS and bias in tensors:
            wholes[bias] = module
    computed = {
        tensor: replace(
            located, info=replace(located.info, dtype="F32", end=located.info.begin + 4 * located.info.numel)
        )
        for tensor, located in tensors.items()
        if tensor in products or tensor in wholes
    }
    layout = replace(inner.layout, tensors={**tensors, **computed})
    stamps = stamps_of(adapter.root, adapter.files)
    return AdaptedModel(origin, inner, read_variant(adapter), stamps, layout, products, wholes)
