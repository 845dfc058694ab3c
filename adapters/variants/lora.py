"""LoRA (arXiv:2106.09685) and rsLoRA (arXiv:2312.03732) adapters in memory, and as PEFT folders."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.adapters.variants.factors import Factor, LoraAdapter, LoraFactors, RawFactors
from graftwork.adapters.variants.modules import read_raw
from graftwork.kernels.dtypes import numpy_dtype
from graftwork.registry.formats.peft import CONFIG_FILE, PREFIX, WEIGHTS_FILE, AdapterLayout, read_adapter
from graftwork.registry.formats.safetensors import build_header

__all__ = ["Factor", "LoraAdapter", "LoraFactors", "RawFactors", "load_lora", "load_module", "load_raw", "save_lora"]


def load_lora(folder: Path, name: str | None = None) -> LoraAdapter:
    """The adapter in a PEFT folder, in float32, whatever its format is called as long as it is products of two factors.

    Raises InvalidAdapter and its kin, NonFiniteTensor.
    """
    layout = read_adapter(folder)
    return LoraAdapter(name or folder.name, {module: load_module(layout, module) for module in layout.modules})


def load_module(layout: AdapterLayout, module: str) -> LoraFactors:
    """The factors of one module of an adapter, in float32. Raises NonFiniteTensor."""
    raw = load_raw(layout, module)
    return LoraFactors(raw.a, raw.b * np.float32(raw.scale))


def load_raw(layout: AdapterLayout, module: str) -> RawFactors:
    """The factors of one module of an adapter, in float32, beside their scale. Raises NonFiniteTensor."""
    return read_raw(layout, layout.parts[module])


def save_lora(
    adapter: LoraAdapter,
    folder: Path,
    *,
    base_model: str | None,
    dtype: str = "F32",
    fan_in_fan_out: bool = False,
    task_type: str | None = None,
    target_modules: Sequence[str] | None = None,
) -> None:
    """Write `adapter` into an existing folder as PEFT does, with alpha equal to the rank everywhere.

    dtype:          safetensors name of the dtype of the factors
    target_modules: what the configuration names; by default every module by its full path
    """
    config = _config(adapter, base_model, fan_in_fan_out, task_type, target_modules)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    factors = {
        f"{PREFIX}{module}.lora_{side}.weight": factor
        for module, pair in adapter.modules.items()
        for side, factor in (("A", pair.a), ("B", pair.b))
    }
    start, _ = build_header([(name, dtype, factor.shape) for name, factor in factors.items()], {"format": "pt"})
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.write(start)
        for factor in factors.values():
            file.write(np.ascontiguousarray(factor.astype(numpy_dtype(dtype))).tobytes())


def _config(
    adapter: LoraAdapter,
    base_model: str | None,
    fan_in_fan_out: bool,
    task_type: str | None,
    target_modules: Sequence[str] | None,
) -> dict[str, Any]:
    ranks = {module: factors.rank for module, factors in adapter.modules.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": unusual,
        "target_modules": sorted(target_modules if target_modules is not None else ranks),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }
