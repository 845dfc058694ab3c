"""An adapter in any format: what it adds to its base's weights, and as plain LoRA where it is that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.adapters.variants.effect import Matrix, ModuleVariant
from graftwork.adapters.variants.factors import Factor, LoraAdapter, LoraFactors, read_tensor
from graftwork.adapters.variants.modules import read_module
from graftwork.registry.formats.peft import AdapterLayout

if TYPE_CHECKING:
    from graftwork.adapters.changes import BaseWeights


@dataclass(frozen=True, slots=True)
class Variant:
    """An adapter folder; tensors are read when they are asked for."""

    layout: AdapterLayout

    @property
    def modules(self) -> Iterable[str]:
        """The paths of all modules that it changes, those of which only a bias is trained too."""
        return self.layout.parts.keys()

    def module(self, name: str) -> ModuleVariant | None:
        """The variant of one module; None where only parameters of its own are replaced. Raises NonFiniteTensor."""
        return read_module(self.layout, self.layout.parts[name])

    def own(self, module: str, parameter: str) -> Factor | None:
        """The `weight` or `bias` that replaces the module's own, as it is in the file; None for none."""
        for role, info in self.layout.parts[module].own.items():
            if role.removeprefix("base_layer.") == parameter:
                return read_tensor(self.layout, info)
        return None

    def delta(self, module: str, w0: Matrix) -> Matrix:
        """What it adds to the weight w0 of a module, in the shape and dtype of w0. Raises NonFiniteTensor.

        w0: [out, in] of a linear layer, also of a Conv1D; [vocabulary, dim] of an embedding; [dim] of a norm
        """
        delta: Matrix = self.weight(module, w0) - w0
        return delta

    def weight(self, module: str, w0: Matrix) -> Matrix:
        """What the weight w0 of a module becomes; w0 as for `delta`. Raises NonFiniteTensor."""
        start = self._start(module, w0)
        part = self.module(module)
        return start if part is None else start + part.delta(start)

    def bias(self, module: str, w0: Matrix, b0: Matrix) -> Matrix:
        """What the bias b0 [out] of a module becomes; w0 as for `delta`. Raises NonFiniteTensor."""
        own = self.own(module, "bias")
        start = b0 if own is None else own.astype(b0.dtype)
        part = self.module(module)
        if part is None:
            return start
        effect = part.effect(self._start(module, w0), start)
        if effect.scales_bias and effect.scale is not None:
            start = start * effect.scale
        return start if effect.bias_shift is None else start + effect.bias_shift

    def _start(self, module: str, w0: Matrix) -> Matrix:
        """The weight that is changed further: the base's, or one of the adapter's own."""
        own = self.own(module, "weight")
        return w0 if own is None else self._oriented(own, w0)

    def to_lora(self, base: BaseWeights | None = None, name: str | None = None) -> LoraAdapter | None:
        """The same adapter as plain LoRA; None where it is more than that.

        VeRA, KaSA, Hydra and S2FT are plain LoRA on a given base. Raises NonFiniteTensor.
        """
        modules = {}
        for module in self.modules:
            factors = None if self._replaces(module, base) else self._factors(module, base)
            if factors is None:
                return None
            if factors.rank:
                modules[module] = factors
        return LoraAdapter(name or self.layout.root.name, modules)

    def _replaces(self, module: str, base: BaseWeights | None) -> bool:
        """Whether it replaces a parameter; one that is the base's own (PEFT saves a targeted head) is no change."""
        if base is None:
            return bool(self.layout.parts[module].own)
        for parameter, current in (("weight", base.weight(module)), ("bias", base.bias(module))):
            own = self.own(module, parameter)
            if own is not None and (
                current is None or not np.array_equal(self._oriented(own, array(current)), array(current))
            ):
                return True
        return False

    def _factors(self, module: str, base: BaseWeights | None) -> LoraFactors | None:
        variant = self.module(module)
        if variant is None:
            return None
        if base is None:
            is_low_rank = "lora_B.bias" not in self.layout.parts[module].tensors
            return variant.factors(None) if is_low_rank else None
        w0, bias = array(base.weight(module)), base.bias(module)
        shifts = variant.effect(w0, None if bias is None else array(bias)).bias_shift is not None
        return None if shifts else variant.factors(w0)

    def _oriented(self, own: Factor, w0: Matrix) -> Matrix:
        is_square = own.ndim == 2 and own.shape[0] == own.shape[1]
        is_transposed = self.layout.config.fan_in_fan_out if is_square else own.shape != w0.shape
        oriented: Matrix = (own.T if is_transposed else own).astype(w0.dtype)
        return oriented


def read_variant(layout: AdapterLayout) -> Variant:
    """The adapter in a folder that was read."""
    return Variant(layout)


def array(tensor: Any) -> Matrix:
    """A torch tensor in float32 on the host."""
    values: Matrix = tensor.detach().float().cpu().numpy()
    return np.ascontiguousarray(values)
