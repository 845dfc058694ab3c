"""The adapters that mixtures and expert sets are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.adapters.variants.lora import LoraAdapter
from graftwork.adapters.variants.variant import Variant, read_variant
from graftwork.errors import InvalidRequest
from graftwork.registry.formats.adapters.kinds import FOLDABLE, Kind
from graftwork.registry.formats.peft import read_adapter

if TYPE_CHECKING:
    from graftwork.adapters.changes import BaseWeights

ON_A_BASE = (Kind.VERA, Kind.KASA, Kind.HYDRA, Kind.S2FT)


def load_member(folder: Path, name: str, base: BaseWeights | None = None) -> LoraAdapter:
    """The adapter in `folder` as low-rank changes, in float32; messages call it `name`.

    `base` is needed by formats that are low rank on a given base only (VeRA, KaSA, Hydra, S2FT). Raises InvalidRequest
    naming the adapter and the module that is more than a low-rank change, NonFiniteTensor, what `read_adapter` raises.
    """
    variant = read_variant(read_adapter(folder))
    adapter = variant.to_lora(base, name)
    if adapter is None:
        reason = f"{name} is more than a low-rank change of linear layers ({_culprit(variant)})"
        raise InvalidRequest(field="model", reason=f"{reason}, so it cannot be a part of a mixture or an expert set")
    return adapter


def _culprit(variant: Variant) -> str:
    parts = variant.layout.parts.items()
    for module, part in parts:
        if part.kind not in (*FOLDABLE, *ON_A_BASE, Kind.REPLACED):
            return f"{part.kind} at {module}"
    for module, part in parts:
        if roles := [*part.own, *(role for role in part.tensors if role.endswith("bias"))]:
            return f"it has a {' and a '.join(sorted(roles))} of its own for {module}"
    return ", ".join(variant.layout.kinds)
