"""`adapter_config.json`: what of it decides what an adapter computes."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.adapters.kinds import Format
from graftwork.registry.formats.adapters.options import format_of, refuse_options
from graftwork.registry.formats.config import ADAPTER_CONFIG_FILE, read_object

CONFIG_FILE = ADAPTER_CONFIG_FILE
MAX_PATTERN = 256
MAX_ALPHA = 1e9


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of an adapter's configuration that decides what it computes; `raw` is all of it."""

    format: Format
    r: int
    lora_alpha: float
    use_rslora: bool
    use_dora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...] | str | None
    fan_in_fan_out: bool
    bias: str
    modules_to_save: tuple[str, ...]
    base_model_name_or_path: str | None
    scale: float
    """Of LoTR (over the rank) and Hydra."""
    shared: Mapping[str, str]
    """LoTR: which module's outer factors are those of the modules that a pattern names."""
    raw: Mapping[str, object]

    def rank_for(self, module: str) -> int:
        """The rank that the configuration gives to `module`."""
        return next((rank for key, rank in self.rank_pattern.items() if matches(key, module)), self.r)

    def alpha_for(self, module: str) -> float:
        """The alpha that the configuration gives to `module`."""
        return next((alpha for key, alpha in self.alpha_pattern.items() if matches(key, module)), self.lora_alpha)

    def scale_for(self, module: str, rank: int | None = None) -> float:
        """The factor of B @ A: alpha / r, or alpha / sqrt(r) in rsLoRA; in AdaLoRA alpha / (initial r + 1e-5).

        rank: that of the module's tensors, which AdaLoRA takes for alpha where that is not positive
        """
        if self.format is Format.ADALORA:
            alpha = self.lora_alpha if self.lora_alpha > 0 else float(rank or 0)
            return alpha / (self.r + 1e-5)
        if self.format is Format.LOTR:
            return self.scale / (rank or 1)
        rank = self.rank_for(module)
        return self.alpha_for(module) / (math.sqrt(rank) if self.use_rslora else rank)

    def owner_of(self, module: str) -> str | None:
        """The module whose outer factors `module` shares (LoTR); None for none."""
        return next((owner for key, owner in self.shared.items() if matches(key, module)), None)

    def saves(self, module: str) -> bool:
        """Whether modules_to_save names `module` or something around it, as PEFT matches: by the path's end."""
        parts = module.split(".")
        return any(
            ".".join(parts[: end + 1]).endswith(name) for name in self.modules_to_save for end in range(len(parts))
        )


def parse_lora_config(path: Path) -> LoraConfig:
    """Read `adapter_config.json`. Raises InvalidAdapter naming the option that is not accepted, and what is."""
    raw = read_object(path, path.name)
    kind = format_of(raw, path)
    refuse_options(kind, raw, path)
    modules, saved, base = raw.get("target_modules"), raw.get("modules_to_save"), raw.get("base_model_name_or_path")
    ada = kind is Format.ADALORA
    return LoraConfig(
        format=kind,
        r=_rank(raw.get("init_r", 12), "init_r", path) if ada else _rank(raw.get("r", 8), "r", path),
        lora_alpha=_number(raw.get("lora_alpha", 8), "lora_alpha", path),
        use_rslora=bool(raw.get("use_rslora")),
        use_dora=bool(raw.get("use_dora")),
        rank_pattern=_ada_ranks(raw, path)
        if ada
        else {key: _rank(rank, f"rank_pattern[{key!r}]", path) for key, rank in _pattern(raw, "rank_pattern", path)},
        alpha_pattern={
            key: _number(alpha, f"alpha_pattern[{key!r}]", path) for key, alpha in _pattern(raw, "alpha_pattern", path)
        },
        target_modules=tuple(map(str, modules)) if isinstance(modules, list) else str(modules) if modules else None,
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        bias=str(raw.get("bias") or "none"),
        modules_to_save=tuple(map(str, saved)) if isinstance(saved, list) else (),
        base_model_name_or_path=base if isinstance(base, str) and base else None,
        scale=_number(raw.get("scale", 1.0), "scale", path),
        shared={key: str(owner) for key, owner in _pattern(raw, "shared", path)},
        raw=raw,
    )


def matches(pattern: str, module: str) -> bool:
    """PEFT's rule (peft.utils.other.get_pattern_key): the pattern is a whole path, or a whole tail of one."""
    return re.match(_tail(pattern), module) is not None


def _tail(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _rank(value: object, what: str, path: Path) -> int:
    if type(value) is not int or value < 1:
        raise InvalidAdapter(path=str(path), reason=f"its {what} is {value!r}; accepted is a whole number from 1 on")
    return value


def _number(value: object, what: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_ALPHA:
        raise InvalidAdapter(path=str(path), reason=f"its {what} is {value!r}; accepted is a number up to {MAX_ALPHA}")
    return float(value)


def _pattern(raw: Mapping[str, object], option: str, path: Path) -> list[tuple[str, object]]:
    value = raw.get(option) or {}
    if not isinstance(value, dict):
        raise InvalidAdapter(path=str(path), reason=f"its {option} is not a map")
    for key in value:
        if not _is_tame(key):
            reason = f"the key {key[:80]!r} of its {option} is not accepted: a module name or a simple pattern"
            raise InvalidAdapter(path=str(path), reason=reason)
    return list(value.items())


def _ada_ranks(raw: Mapping[str, object], path: Path) -> dict[str, int]:
    """AdaLoRA's pattern says of every unit of `MODULE.lora_E` whether it was kept."""
    ranks = {}
    pattern = raw.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise InvalidAdapter(path=str(path), reason="its rank_pattern is not a map")
    for key, kept in pattern.items():
        if not isinstance(kept, list) or not all(isinstance(unit, bool) for unit in kept):
            reason = f"its rank_pattern[{key!r}] is not a list of true and false"
            raise InvalidAdapter(path=str(path), reason=reason)
        ranks[re.escape(key.removesuffix(".default").removesuffix(".lora_E"))] = sum(kept)
    return ranks


def _is_tame(pattern: str) -> bool:
    """Whether a pattern compiles and cannot backtrack for long: no repeated group, at most two open repetitions."""
    if len(pattern) > MAX_PATTERN or re.search(r"\)[*+{?]", pattern) or len(re.findall(r"[*+{]", pattern)) > 2:
        return False
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
            re.compile(_tail(pattern))  # flags such as (?i) may only begin a whole expression
    except (re.error, OverflowError, RecursionError):
        return False
    return True
