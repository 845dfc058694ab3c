"""rsLoRA (arXiv:2312.03732) written as plain LoRA, for engines that pass over `use_rslora`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping


def with_plain_scaling(config: Mapping[str, object], modules: Mapping[str, int]) -> dict[str, object]:
    """The same adapter's `adapter_config.json` without rsLoRA; exact up to the rounding of one square root.

    rsLoRA scales B @ A by alpha / sqrt(r) and LoRA by alpha / r, so alpha becomes alpha * sqrt(r). `modules` maps each
    adapted module to its rank: where ranks or alphas differ, every module gets an alpha of its own.
    """
    if not config.get("use_rslora"):
        return dict(config)
    alphas = {module: _alpha(config, module) * math.sqrt(rank) for module, rank in modules.items()}
    plain = {**config, "use_rslora": False}
    if len(set(alphas.values())) == 1:
        return {**plain, "lora_alpha": next(iter(alphas.values())), "alpha_pattern": {}}
    return {**plain, "alpha_pattern": {re.escape(module): alpha for module, alpha in alphas.items()}}


def _alpha(config: Mapping[str, object], module: str) -> float:
    """PEFT's rule (peft.utils.other.get_pattern_key): the first pattern that is a whole tail of the path."""
    patterns = config.get("alpha_pattern")
    found = patterns.items() if isinstance(patterns, dict) else ()
    own = next((alpha for key, alpha in found if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = config.get("lora_alpha", 8) if own is None else own
    return float(alpha) if isinstance(alpha, int | float) else 8.0
