"""A LoRA adapter as PEFT saves it: `adapter_config.json` beside `adapter_model.safetensors`.

PEFT is the authority on this format (src/peft/tuners/lora). Here are LoRA (arXiv:2106.09685) and rsLoRA
(arXiv:2312.03732) on linear layers, with a rank and an alpha that may differ by module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from graftwork.errors import IncompatibleAdapter, InvalidAdapter
from graftwork.registry.formats.config import check_configs, read_object
from graftwork.registry.formats.folder import list_files
from graftwork.registry.formats.safetensors import Header, read_header

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_HEADER_BYTES = 4_000_000
ACCEPTED = "plain LoRA and rsLoRA on linear layers"
FACTOR = re.compile(re.escape(PREFIX) + r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
FOREIGN_TENSORS = {
    "lora_embedding_": "LoRA on an embedding (its tensor {name!r})",
    "lora_magnitude_vector": "DoRA (its tensor {name!r})",
    ".bias": "a trained bias (its tensor {name!r})",
}
HARMLESS_INIT = (None, True, False, "gaussian", "eva", "orthogonal")
"""The other initialisations change the base's weights, so the saved factors do not fit the base as published."""
HARMLESS_OPTIONS = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_rslora",
})  # fmt: skip
MAX_PATTERN = 256
MAX_ALPHA = 1e9


class Shaped(Protocol):
    """Anything that has a tensor's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of PEFT's LoraConfig that decides what an adapter computes; `raw` is all of it."""

    r: int
    lora_alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: tuple[str, ...] | str | None
    fan_in_fan_out: bool
    bias: str
    modules_to_save: tuple[str, ...]
    base_model_name_or_path: str | None
    raw: Mapping[str, object]

    def rank_for(self, module: str) -> int:
        """The rank that the configuration gives to `module`."""
        return next((rank for key, rank in self.rank_pattern.items() if _matches(key, module)), self.r)

    def alpha_for(self, module: str) -> float:
        """The alpha that the configuration gives to `module`."""
        return next((alpha for key, alpha in self.alpha_pattern.items() if _matches(key, module)), self.lora_alpha)

    def scale_for(self, module: str) -> float:
        """The factor of B @ A: alpha / r, or alpha / sqrt(r) in rsLoRA."""
        rank = self.rank_for(module)
        return self.alpha_for(module) / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted linear layer: `a` [rank, in_features] and `b` [out_features, rank] are names of tensors."""

    module: str
    a: str
    b: str
    rank: int
    in_features: int
    out_features: int
    scale: float


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """An adapter folder whose every tensor is accounted for; `modules` is keyed by the base's module path."""

    root: Path
    files: tuple[str, ...]
    config: LoraConfig
    modules: Mapping[str, LoraModule]
    header: Header


def parse_lora_config(path: Path) -> LoraConfig:
    """Read `adapter_config.json`. Raises InvalidAdapter naming the option that is not accepted, and what is."""
    raw = read_object(path, path.name)
    _refuse_variants(raw, path)
    modules = raw.get("target_modules")
    base = raw.get("base_model_name_or_path")
    return LoraConfig(
        r=_rank(raw.get("r", 8), "r", path),
        lora_alpha=_alpha(raw.get("lora_alpha", 8), "lora_alpha", path),
        use_rslora=bool(raw.get("use_rslora")),
        rank_pattern={key: _rank(rank, f"rank_pattern[{key!r}]", path) for key, rank in _pattern(raw, "rank", path)},
        alpha_pattern={
            key: _alpha(alpha, f"alpha_pattern[{key!r}]", path) for key, alpha in _pattern(raw, "alpha", path)
        },
        target_modules=tuple(map(str, modules)) if isinstance(modules, list) else str(modules) if modules else None,
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        bias="none",
        modules_to_save=(),
        base_model_name_or_path=base if isinstance(base, str) and base else None,
        raw=raw,
    )


def read_adapter(root: Path, *, links_to: Path | None = None) -> AdapterLayout:
    """Read the configuration and the header of the adapter folder `root`; `links_to`: see `list_files`.

    Raises InvalidAdapter naming the tensor or the option at fault, UnsafeFile, InvalidSafetensors, TooLarge,
    SourceNotFound.
    """
    files = list_files(root, links_to=links_to)
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if needed not in files:
            raise InvalidAdapter(path=str(root), reason=f"it has no {needed}")
    if stray := [name for name in files if name.endswith(".safetensors") and name != WEIGHTS_FILE]:
        raise InvalidAdapter(path=str(root), reason=f"{stray[0]!r} is not part of an adapter")
    check_configs(root, files)
    config = parse_lora_config(root / CONFIG_FILE)
    header = read_header(root / WEIGHTS_FILE, label=WEIGHTS_FILE, max_bytes=MAX_HEADER_BYTES)
    return AdapterLayout(root, files, config, _modules(config, header, root), header)


def check_against_base(
    adapter: AdapterLayout, base_tensors: Mapping[str, Shaped], *, adapter_name: str, base_name: str
) -> None:
    """Check every adapted module against the base's tensors.

    A Linear's weight is [out_features, in_features]; a Conv1D's (`fan_in_fan_out`) is transposed. Raises
    IncompatibleAdapter naming the module.
    """
    for module in adapter.modules.values():
        weight = base_tensors.get(f"{module.module}.weight")
        if weight is None:
            hint = "; the base's own head is tied to its embedding" if module.module.endswith("lm_head") else ""
            reason = f"it changes {module.module!r}, which the base does not have{hint}"
            raise IncompatibleAdapter(adapter=adapter_name, base=base_name, reason=reason)
        expected = (module.out_features, module.in_features)
        if adapter.config.fan_in_fan_out:
            expected = expected[::-1]
        if tuple(weight.shape) != expected:
            reason = f"{module.module!r} is {list(weight.shape)} in the base, and the adapter is for {list(expected)}"
            raise IncompatibleAdapter(adapter=adapter_name, base=base_name, reason=reason)


def _refuse_variants(raw: Mapping[str, object], path: Path) -> None:
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise InvalidAdapter(path=str(path), reason=f"its peft_type is {kind!r}; accepted are {ACCEPTED}")
    if raw.get("bias", "none") != "none":
        raise InvalidAdapter(path=str(path), reason=f"its bias is {raw['bias']!r}; accepted is 'none'")
    if saved := raw.get("modules_to_save"):
        raise InvalidAdapter(path=str(path), reason=f"its modules_to_save is {saved!r}; accepted are {ACCEPTED}")
    init = raw.get("init_lora_weights", True)
    if init not in HARMLESS_INIT:
        reason = f"its init_lora_weights is {init!r}, which changes the base; convert it with PEFT's save_pretrained("
        raise InvalidAdapter(path=str(path), reason=reason + "path_initial_model_for_weight_conversion=...)")
    for option, value in raw.items():
        if value and option not in HARMLESS_OPTIONS:
            raise InvalidAdapter(path=str(path), reason=f"its {option} is {value!r}; accepted are {ACCEPTED}")


def _rank(value: object, what: str, path: Path) -> int:
    if type(value) is not int or value < 1:
        raise InvalidAdapter(path=str(path), reason=f"its {what} is {value!r}; accepted is a whole number from 1 on")
    return value


def _alpha(value: object, what: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_ALPHA:
        raise InvalidAdapter(path=str(path), reason=f"its {what} is {value!r}; accepted is a number up to {MAX_ALPHA}")
    return float(value)


def _pattern(raw: Mapping[str, object], which: str, path: Path) -> list[tuple[str, object]]:
    value = raw.get(f"{which}_pattern") or {}
    if not isinstance(value, dict):
        raise InvalidAdapter(path=str(path), reason=f"its {which}_pattern is not a map")
    for key in value:
        if not _is_tame(key):
            reason = f"the key {key[:80]!r} of its {which}_pattern is not accepted: a module name or a simple pattern"
            raise InvalidAdapter(path=str(path), reason=reason)
    return list(value.items())


def _is_tame(pattern: str) -> bool:
    """Whether a pattern compiles and cannot backtrack for long: no repeated group, at most two open repetitions."""
    if len(pattern) > MAX_PATTERN or re.search(r"\)[*+{?]", pattern) or len(re.findall(r"[*+{]", pattern)) > 2:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _matches(pattern: str, module: str) -> bool:
    """PEFT's rule (peft.utils.other.get_pattern_key): the pattern is a whole path, or a whole tail of one."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _modules(config: LoraConfig, header: Header, root: Path) -> dict[str, LoraModule]:
    sides: dict[str, set[str]] = {}
    for name in header.tensors:
        match = FACTOR.fullmatch(name)
        if match is None:
            raise InvalidAdapter(path=str(root), reason=_foreign(name))
        sides.setdefault(match["module"], set()).add(match["side"])
    if not sides:
        raise InvalidAdapter(path=str(root), reason=f"{WEIGHTS_FILE} holds no tensor")
    for module, found in sides.items():
        if found != {"A", "B"}:
            missing = ({"A", "B"} - found).pop()
            raise InvalidAdapter(path=str(root), reason=f"{module!r} has no lora_{missing}")
    return {module: _module(module, config, header, root) for module in sides}


def _foreign(name: str) -> str:
    for mark, what in FOREIGN_TENSORS.items():
        if mark in name:
            return f"it has {what.format(name=name)}; accepted are {ACCEPTED}"
    return f"the tensor {name!r} is not named {PREFIX}MODULE.lora_A.weight or .lora_B.weight"


def _module(module: str, config: LoraConfig, header: Header, root: Path) -> LoraModule:
    a, b = (header.tensors[f"{PREFIX}{module}.lora_{side}.weight"] for side in "AB")
    if len(a.shape) != 2 or len(b.shape) != 2:
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise InvalidAdapter(path=str(root), reason=f"the factors of {module!r} are {shapes}; accepted are {ACCEPTED}")
    for info in (a, b):
        if not info.dtype.startswith(("F", "BF")) or info.dtype.startswith("F8"):
            reason = f"{info.name!r} is {info.dtype}; accepted are F32, F16, BF16 and F64"
            raise InvalidAdapter(path=str(root), reason=reason)
    rank = config.rank_for(module)
    if a.shape[0] != rank or b.shape[1] != rank:
        reason = f"{module!r} has factors of rank {a.shape[0]} and {b.shape[1]}, and {CONFIG_FILE} gives it rank {rank}"
        raise InvalidAdapter(path=str(root), reason=reason)
    return LoraModule(module, a.name, b.name, rank, a.shape[1], b.shape[0], config.scale_for(module))
