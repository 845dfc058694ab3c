"""From an adapter in any format to what an engine applies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.changes import BaseWeights, Change, EmbeddingFactors, Factors, Lines, Lowered
from graftwork.adapters.variants.effect import Effect, Indices
from graftwork.adapters.variants.factors import Factor
from graftwork.adapters.variants.variant import Variant, array
from graftwork.errors import IncompatibleAdapter, NonFiniteTensor
from graftwork.registry.formats.adapters.kinds import EMBEDDING_KINDS, Kind
from graftwork.registry.formats.adapters.layout import Part
from graftwork.registry.formats.peft import WEIGHTS_FILE


def lower(
    variant: Variant,
    base: BaseWeights,
    dtype: torch.dtype,
    *,
    adapter_name: str | None = None,
    base_name: str = "in this engine",
) -> Lowered:
    """Every module's change on the CPU, computed in float32 and rounded once to `dtype`.

    The weights of `base` are only looked at where a change depends on them (DoRA, KaSA, Hydra). The names stand for
    adapter and base in messages. Raises IncompatibleAdapter for a module that the base does not have or that cannot
    be changed so, NonFiniteTensor for a tensor with NaN or infinite values, before or after the rounding.
    """
    names = adapter_name or variant.layout.root.name, base_name
    with safe_open(variant.layout.root / WEIGHTS_FILE, framework="pt") as file:
        lowering = _Lowering(variant, base, dtype, names, file)
        changes: dict[str, Change] = {}
        for part in variant.layout.parts.values():
            for name, change in lowering.changes(part).items():
                changes[name] = replace(changes[name], weight=change.weight) if name in changes else change
    return Lowered({name: change for name, change in changes.items() if not change.is_empty})


@dataclass(frozen=True, slots=True)
class _Lowering:
    """One adapter on its way to one base."""

    variant: Variant
    base: BaseWeights
    dtype: torch.dtype
    names: tuple[str, str]
    file: Any

    def changes(self, part: Part) -> dict[str, Change]:
        """What one part of the adapter does: to its module, and to those that share a weight that it replaces."""
        self._check(part)
        if part.kind is Kind.LORA and len(part.tensors) == 2 and not part.own:
            a, b = (part.tensors[f"lora_{side}.weight"].name for side in "AB")
            return {
                part.module: Change(low_rank=Factors(self._stored(a), self._stored(b, part.scale).t().contiguous()))
            }
        weight, bias = self._own(part, "weight"), self._own(part, "bias")
        found = self.variant.module(part.module)
        change = Change(weight=weight, bias=bias)
        if found is not None:
            w0 = self.base.weight(part.module) if weight is None else weight
            b0 = self.base.bias(part.module) if bias is None else bias
            effect = found.effect(array(w0), None if b0 is None else array(b0))
            change = self._changed(change, effect, b0, part)
        is_alone = weight is None or ("weight" in part.own and self.variant.layout.config.saves(part.module))
        tied = () if is_alone else self.base.tied(part.module)
        return {part.module: change, **{name: Change(weight=weight) for name in tied}}

    def _check(self, part: Part) -> None:
        """That the base has the module, of a type and in a shape that the part is for."""
        try:
            module = self.base.module(part.module)
            shape = tuple(self.base.weight(part.module).shape)
        except KeyError:
            self._refuse(f"it changes {part.module!r}, which the base does not have")
        if not part.tensors:
            return
        embeds = part.kind in EMBEDDING_KINDS
        accepted = (nn.Embedding,) if embeds else (nn.Linear, Conv1D)
        if not isinstance(module, accepted):
            self._refuse(f"{part.module!r} is a {type(module).__name__} there, which {part.kind} cannot change")
        order = "io" if embeds else "oi"
        expected = tuple(part.sizes.get(dim, size) for dim, size in zip(order, shape, strict=True))
        if shape != expected:
            self._refuse(f"{part.module!r} is {list(shape)} there, and the adapter is for {list(expected)}")

    def _own(self, part: Part, parameter: str) -> Tensor | None:
        """The parameter that replaces the module's own, as `Change` has it; None where it is the same."""
        for role, info in part.own.items():
            if role.removeprefix("base_layer.") == parameter:
                tensor = self._stored(info.name)
                module = self.base.module(part.module)
                if parameter == "weight" and isinstance(module, Conv1D):
                    tensor = tensor.t().contiguous()
                current = self.base.weight(part.module) if parameter == "weight" else self.base.bias(part.module)
                fits = current is not None and current.shape == tensor.shape
                if not fits and not self._widens(part.module, tensor, current):
                    there = "none" if current is None else list(current.shape)
                    self._refuse(f"its {info.name!r} is {list(tensor.shape)}, and the base has {there}")
                same = current is not None and torch.equal(tensor, current.to("cpu", self.dtype))
                return None if same else tensor
        return None

    def _widens(self, module: str, tensor: Tensor, current: Tensor | None) -> bool:
        """Whether a parameter may replace another that has a different number of outputs."""
        return current is not None and self.base.takes_any_width(module) and tensor.shape[1:] == current.shape[1:]

    def _changed(self, change: Change, effect: Effect, bias: Tensor | None, part: Part) -> Change:
        """`change` with the effect of the module's variant."""
        low = effect.low_rank
        rows, columns, embedding = effect.rows, effect.columns, effect.embedding
        if effect.bias_shift is not None:
            shifted = effect.bias_shift if bias is None else array(bias) + effect.bias_shift
            change = replace(change, bias=self._rounded(shifted, part))
        return replace(
            change,
            low_rank=Factors(self._rounded(low.a, part), self._rounded(low.b.T, part)) if low and low.rank else None,
            scale=None if effect.scale is None else self._rounded(effect.scale, part),
            scales_bias=effect.scales_bias,
            input_scale=None if effect.input_scale is None else self._rounded(effect.input_scale, part),
            rows=self._lines(rows, part),
            columns=self._lines(columns, part),
            embedding=EmbeddingFactors(self._rounded(embedding.a.T, part), self._rounded(embedding.b.T, part))
            if embedding
            else None,
        )

    def _lines(self, lines: tuple[Indices, Factor] | None, part: Part) -> Lines | None:
        return None if lines is None else Lines(torch.from_numpy(lines[0]), self._rounded(lines[1], part))

    def _stored(self, name: str, scale: float = 1.0) -> Tensor:
        tensor: Tensor = self.file.get_tensor(name)
        if scale != 1.0 or tensor.dtype != self.dtype:
            tensor = (tensor.float() * scale).to(self.dtype)
        return self._finite(tensor, name)

    def _rounded(self, values: Factor, part: Part) -> Tensor:
        tensor = torch.from_numpy(values).to(self.dtype).contiguous()
        return self._finite(tensor, next(iter(part.tensors.values())).name)

    def _finite(self, tensor: Tensor, name: str) -> Tensor:
        if not tensor.isfinite().all():
            path = str(self.variant.layout.root / WEIGHTS_FILE)
            raise NonFiniteTensor(tensor=name, path=path, count=int((~tensor.isfinite()).sum()))
        return tensor

    def _refuse(self, reason: str) -> NoReturn:
        raise IncompatibleAdapter(adapter=self.names[0], base=self.names[1], reason=reason)
