"""Which options an `adapter_config.json` may set, and why others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.adapters.kinds import ACCEPTED, PUBLISHED, Format

COMMON = frozenset({
    "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "fan_in_fan_out", "graftwork_type",
    "inference_mode", "modules_to_save", "peft_type", "peft_version", "revision", "runtime_config", "target_modules",
    "task_type",
})  # fmt: skip
LAYERS = frozenset({"layers_pattern", "layers_to_transform"})
EXCLUDES = frozenset({"exclude_modules"})
LORA = COMMON | LAYERS | EXCLUDES | {
    "alpha_pattern", "corda_config", "eva_config", "init_lora_weights", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_core", "qalora_group_size", "r", "rank_pattern", "use_rslora",
}  # fmt: skip
OPTIONS: Mapping[Format, frozenset[str]] = {
    Format.LORA: LORA | {"kasa_config", "lora_bias", "use_dora"},
    Format.ADALORA: LORA
    | {"beta1", "beta2", "deltaT", "init_r", "orth_reg_weight", "target_r", "tfinal", "tinit", "total_step"},
    Format.VERA: COMMON
    | LAYERS
    | {"d_initial", "init_weights", "projection_prng_key", "r", "save_projection", "vera_dropout"},
    Format.IA3: COMMON | EXCLUDES | {"feedforward_modules", "init_ia3_weights"},
    Format.LOTR: COMMON | LAYERS | EXCLUDES | {"rank", "scale", "shared"},
    Format.HYDRA: COMMON | LAYERS | EXCLUDES | {"scale"},
    Format.S2FT: COMMON | LAYERS | EXCLUDES,
}
BIASES = ("none", "all", "lora_only", "vera_only")
HARMLESS_INIT = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "n_lora", "s_lora")
"""The other initialisations change the base's weights, so the saved factors do not fit the base as published."""
CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")
"""Those of them that PEFT turns into plain LoRA on the published base."""

NEARLY_LORA = ("C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "MISS")
"""Formats that add a matrix to a weight, of which PEFT (since 0.19) finds the nearest LoRA."""


def format_of(raw: Mapping[str, object], path: Path) -> Format:
    """The format that a configuration names. Raises InvalidAdapter."""
    for option, names in (("graftwork_type", PUBLISHED), ("peft_type", tuple(set(Format) - set(PUBLISHED)))):
        value = raw.get(option)
        if value in names:
            return Format(str(value))
        if value is not None or option == "peft_type":
            hint = "; PEFT's save_as_lora makes a LoRA of it" if value in NEARLY_LORA else ""
            raise InvalidAdapter(path=str(path), reason=f"its {option} is {value!r}; accepted are {ACCEPTED}{hint}")
    raise AssertionError  # the loop ends in a return or a raise


def refuse_options(kind: Format, raw: Mapping[str, object], path: Path) -> None:
    """Raise InvalidAdapter naming the first option that changes what the adapter computes in an unknown way."""

    def refuse(reason: str) -> None:
        raise InvalidAdapter(path=str(path), reason=reason)

    if (bias := raw.get("bias") or "none") not in BIASES:
        refuse(f"its bias is {bias!r}; accepted are {', '.join(BIASES)}")
    if (saved := raw.get("modules_to_save")) and not isinstance(saved, list):
        refuse(f"its modules_to_save is {saved!r}; accepted is a list of names")
    init = raw.get("init_lora_weights", True)
    if init not in HARMLESS_INIT:
        reason = f"its init_lora_weights is {init!r}, which changes the base"
        if str(init).startswith(CONVERTIBLE):
            reason += "; convert it with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"
        else:
            reason += ", and its factors do not fit the base as published; merge it into the base it was trained on"
        refuse(reason)
    if raw.get("use_dora") and raw.get("lora_bias"):
        refuse("its use_dora and its lora_bias are both set, which PEFT does not know either")
    for option, value in raw.items():
        if value and option not in OPTIONS[kind]:
            refuse(f"its {option} is {value!r}; accepted are {ACCEPTED}")
