"""Which adapters vLLM serves as they were trained, judged from configuration and tensor names alone.

vLLM reads PEFT's format (vllm/lora/peft_helper.py, vllm/lora/lora_model.py). It passes over options that it does not
know and over some tensors without a word; here each of them is a reason to refuse the adapter by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

ENGINE = "vLLM"
SERVED_TENSOR = re.compile(r"base_model\.model\..+\.(lora_[AB]\.weight|lora_embedding_[AB])")
REFUSED_OPTIONS = {
    "use_dora": "it is DoRA (use_dora), whose magnitudes vLLM does not apply",
    "lora_bias": "it has trained LoRA biases (lora_bias)",
    "modules_to_save": "it replaces whole modules (modules_to_save: {value})",
    "trainable_token_indices": "it trains single token embeddings (trainable_token_indices)",
    "alora_invocation_tokens": "it is an activated LoRA (alora_invocation_tokens)",
    "layer_replication": "it replicates layers (layer_replication)",
    "use_bdlora": "it is a block-diagonal LoRA (use_bdlora)",
    "use_qalora": "it is QA-LoRA (use_qalora)",
    "target_parameters": "it adapts bare parameters (target_parameters: {value})",
}
READ_OPTIONS = frozenset({
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "use_rslora",
})  # fmt: skip
IDLE_OPTIONS = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "lora_ga_config",
    "megatron_config", "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
})  # fmt: skip
"""What they decided was decided before the adapter was saved."""
PLAIN_INIT = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
TENSORS = {
    "lora_magnitude_vector": "DoRA's magnitudes",
    ".bias": "a trained bias",
    "embed_tokens": "the weights of an embedding",
    "lm_head": "the weights of a head",
}


def refusal(config: Mapping[str, object], tensors: Iterable[str], *, max_rank: int) -> str | None:
    """Why vLLM cannot serve the adapter with this `adapter_config.json` and these tensors; None when it can.

    `max_rank` is the engine's `--max-lora-rank`.
    """
    return next(_reasons(config, tensors, max_rank), None)


def largest_rank(config: Mapping[str, object]) -> int:
    """The largest rank that the configuration gives to a module."""
    pattern = config.get("rank_pattern")
    ranks = [config.get("r", 8), *(pattern.values() if isinstance(pattern, dict) else ())]
    return max(rank for rank in ranks if isinstance(rank, int))


def _reasons(config: Mapping[str, object], tensors: Iterable[str], max_rank: int) -> Iterator[str]:
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"its peft_type is {kind!r}, and vLLM serves LORA only"
    for option, reason in REFUSED_OPTIONS.items():
        if value := config.get(option):
            yield reason.format(value=value)
    if (bias := config.get("bias", "none")) != "none":
        yield f"it has trained biases (bias: {bias!r})"
    init = config.get("init_lora_weights", True)
    if init not in PLAIN_INIT:
        yield f"its init_lora_weights is {init!r}, which changes the base; convert it to a plain LoRA"
    for option, value in config.items():
        if value and option not in READ_OPTIONS | IDLE_OPTIONS | REFUSED_OPTIONS.keys():
            yield f"vLLM does not know its option {option} ({value!r})"
    for name in tensors:
        if SERVED_TENSOR.fullmatch(name) is None:
            what = next((what for mark, what in TENSORS.items() if mark in name), "something else than LoRA factors")
            yield f"its tensor {name!r} is {what}"
    if (rank := largest_rank(config)) > max_rank:
        yield f"its rank is {rank}, and the engine takes ranks up to {max_rank} (--max-lora-rank)"
