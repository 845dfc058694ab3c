"""The adapters that mixtures and expert sets are made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.adapters.variants.lora import LoraAdapter
from graftwork.adapters.variants.variant import Variant, read_variant
from graftwork.errors import InvalidRequest
from graftwork.registry.formats.peft import read_adapter

if TYPE_CHECKING:
    from graftwork.adapters.changes import BaseWeights


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
    if (beyond := variant.layout.beyond_low_rank) is not None:
        return f"{beyond.kind} at {beyond.module}"
    for module, part in variant.layout.parts.items():
        if roles := [*part.own, *(role for role in part.tensors if role.endswith("bias"))]:
            return f"it has a {' and a '.join(sorted(roles))} of its own for {module}"
    return ", ".join(variant.layout.kinds)
