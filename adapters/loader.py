"""From an adapter folder to the factors an engine multiplies with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

from graftwork.errors import NonFiniteTensor
from graftwork.registry.formats.peft import WEIGHTS_FILE, AdapterLayout, LoraModule


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's low-rank change: y += (x @ a.T) @ b."""

    a: Tensor
    """[rank, in]"""
    b: Tensor
    """[rank, out]: the transposed B with the adapter's scale folded in."""


def load_factors(adapter: AdapterLayout, dtype: torch.dtype) -> Mapping[str, Factors]:
    """Every adapted module's factors on the CPU, scaled in float32 and then rounded once to `dtype`.

    Raises NonFiniteTensor for a factor with NaN or infinite values, before or after the rounding.
    """
    path = adapter.root / WEIGHTS_FILE
    with safe_open(path, framework="pt") as file:

        def factor(name: str, scale: float) -> Tensor:
            tensor: Tensor = (file.get_tensor(name).float() * scale).to(dtype)
            if not tensor.isfinite().all():
                count = int((~tensor.isfinite()).sum())
                raise NonFiniteTensor(tensor=name, path=str(path), count=count)
            return tensor

        def factors(module: LoraModule) -> Factors:
            return Factors(factor(module.a, 1.0), factor(module.b, module.scale).t().contiguous())

        return {name: factors(module) for name, module in adapter.modules.items()}
