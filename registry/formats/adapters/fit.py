"""Whether an adapter fits a base: every module is there, in the shape that the adapter's tensors ask for."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Protocol

from graftwork.errors import IncompatibleAdapter
from graftwork.registry.formats.adapters.kinds import EMBEDDING_KINDS, INDICES, Kind
from graftwork.registry.formats.adapters.layout import AdapterLayout, Part
from graftwork.registry.formats.safetensors import TensorInfo

WEIGHTS_FILE = "adapter_model.safetensors"
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared")
"""What architectures call the embedding that a tied output head shares."""


class Shaped(Protocol):
    """Anything that has a tensor's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""


def check_against_base(
    adapter: AdapterLayout,
    base_tensors: Mapping[str, Shaped],
    *,
    adapter_name: str,
    base_name: str,
    tied_head: bool = False,
) -> None:
    """Check every adapted module against the base's tensors.

    A Linear's weight is [out_features, in_features]; a Conv1D's (`fan_in_fan_out`) is transposed.
    tied_head: whether a head without a weight of its own, which is tied to the embedding, is accepted: an engine can
    change what it computes, a merged checkpoint has no place for it
    Raises IncompatibleAdapter naming the module.
    """
    fit = _Fit(adapter, base_tensors, adapter_name, base_name, tied_head)
    for part in adapter.parts.values():
        fit.check(part)


class _Fit:
    """One comparison."""

    def __init__(
        self, adapter: AdapterLayout, tensors: Mapping[str, Shaped], name: str, base: str, tied_head: bool
    ) -> None:
        self.adapter = adapter
        self.tensors = tensors
        self.name = name
        self.base = base
        self.tied_head = tied_head

    def misfit(self, reason: str) -> IncompatibleAdapter:
        return IncompatibleAdapter(adapter=self.name, base=self.base, reason=reason)

    def check(self, part: Part) -> None:
        """The shapes of one module, and the values of its indices."""
        for role, info in part.own.items():
            self._check_own(part.module, role, info)
        if not part.tensors:
            return
        weight = tuple(self._weight(part.module).shape)
        if len(weight) != 2:
            raise self.misfit(f"{part.module!r} is {list(weight)} in the base, and the adapter is for a matrix")
        if part.kind is Kind.LORA and part.module.rpartition(".")[2] in EMBEDDINGS:
            raise self.misfit(f"{part.module!r} is an embedding, whose factors PEFT calls lora_embedding_A and _B")
        sizes = self._orient(part, weight)
        for role, dim in INDICES.items():
            if role in part.tensors:
                self._check_indices(part.tensors[role], sizes[dim])
        if part.kind is Kind.VERA:
            a = self.adapter.shared["base_model.vera_A"]
            if a.shape[1] < sizes["i"]:
                raise self.misfit(f"its {a.name!r} is {list(a.shape)}, and {part.module!r} has {sizes['i']} inputs")

    def _orient(self, part: Part, weight: tuple[int, ...]) -> dict[str, int]:
        """The sizes of the base's module, which the part's agree with."""
        orders = ["io"] if part.kind in EMBEDDING_KINDS else ["oi"]
        if self.adapter.config.fan_in_fan_out and orders == ["oi"]:
            orders = ["io", "oi"] if part.module.endswith("lm_head") else ["io"]  # GPT-2's head is a Linear
        for order in orders:
            sizes = dict(zip(order, weight, strict=True))
            if all(part.sizes.get(dim, size) == size for dim, size in sizes.items()):
                return sizes
        expected = [part.sizes.get(dim, weight[at]) for at, dim in enumerate(orders[0])]
        raise self.misfit(f"{part.module!r} is {list(weight)} in the base, and the adapter is for {expected}")

    def _weight(self, module: str) -> Shaped:
        found = self.tensors.get(f"{module}.weight")
        if found is not None:
            return found
        hint = ""
        if module.endswith("lm_head"):
            hint = "; the base's own head is tied to its embedding"
            tied = [f"{name}.weight" for name in EMBEDDINGS]
            embedding = next((t for name, t in self.tensors.items() if name.endswith(tuple(tied))), None)
            if self.tied_head and embedding is not None:
                return embedding
        raise self.misfit(f"it changes {module!r}, which the base does not have{hint}")

    def _check_own(self, module: str, role: str, info: TensorInfo) -> None:
        name = role.removeprefix("base_layer.")
        found = self._weight(module) if name == "weight" else self.tensors.get(f"{module}.{name}")
        if found is None:
            raise self.misfit(f"it has {info.name!r}, and the base has no {module}.{name}")
        if tuple(found.shape) != info.shape:
            raise self.misfit(
                f"its {info.name!r} is {list(info.shape)}, and the base's {module}.{name} is {list(found.shape)}"
            )

    def _check_indices(self, info: TensorInfo, size: int) -> None:
        with (self.adapter.root / WEIGHTS_FILE).open("rb") as file:
            file.seek(info.begin)
            code = "<i" if info.dtype == "I32" else "<q"
            last = -1
            for (index,) in struct.iter_unpack(code, file.read(info.nbytes)):
                if not last < index < size:
                    raise self.misfit(
                        f"its {info.name!r} holds {index} after {last}; accepted are ascending indices below {size}"
                    )
                last = index
