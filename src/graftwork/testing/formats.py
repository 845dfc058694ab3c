"""Adapters in every format that PEFT writes, small and with random weights that change what a base says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora.config import KasaConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

ATTENTION = ["q_proj", "v_proj"]
DEFAULTS: Mapping[str, Any] = {"task_type": "CAUSAL_LM"}


def llama_formats() -> dict[str, PeftConfig]:
    """What PEFT can do to a model of the Llama family, on several modules and with ranks of their own."""
    patterns: dict[str, Any] = {
        "rank_pattern": {"q_proj": 6, r"layers\.1\.mlp\.down_proj": 2},
        "alpha_pattern": {"v_proj": 2},
    }
    pruned = [True, False, True, True, False]
    return {
        "rslora": _lora(r=4, use_rslora=True, target_modules="all-linear"),
        "patterns": _lora(r=4, lora_alpha=8, target_modules=[*ATTENTION, "down_proj"], **patterns),
        "layers": _lora(r=3, lora_alpha=6, target_modules=["o_proj", "up_proj"], layers_to_transform=[1]),
        "lora-bias": _lora(r=3, lora_alpha=5, target_modules=ATTENTION, lora_bias=True),
        "dora": _lora(r=4, lora_alpha=8, target_modules=[*ATTENTION, "down_proj"], use_dora=True, **patterns),
        "dora-embedding": _lora(r=3, lora_alpha=6, target_modules=["embed_tokens", "up_proj"], use_dora=True),
        "embedding": _lora(r=5, lora_alpha=10, target_modules=["embed_tokens", "lm_head", "k_proj"]),
        "saved": _lora(
            r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head", "input_layernorm"]
        ),
        "saved-layer": _lora(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["gate_proj", "norm"]),
        "kasa": _lora(r=3, lora_alpha=6, target_modules=[*ATTENTION, "down_proj"], kasa_config=KasaConfig()),
        "adalora": AdaLoraConfig(
            init_r=5, lora_alpha=20, target_modules=[*ATTENTION, "gate_proj"], total_step=10, **DEFAULTS
        ),
        "adalora-pruned": AdaLoraConfig(
            init_r=5,
            lora_alpha=20,
            target_modules=ATTENTION,
            total_step=10,
            rank_pattern={
                f"model.layers.{layer}.self_attn.{name}.lora_E": pruned if layer else [False] * 5
                for layer in range(3)
                for name in ATTENTION
            },
            **DEFAULTS,
        ),
        "vera": VeraConfig(r=8, target_modules=[*ATTENTION, "down_proj"], **DEFAULTS),
        "ia3": IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **DEFAULTS
        ),
    }


def gpt2_formats() -> dict[str, PeftConfig]:
    """The same on a model whose layers are Conv1D with a bias, and whose head is tied to its embedding."""
    return {
        "patterns": _lora(
            r=4,
            lora_alpha=8,
            target_modules=["c_attn", "c_fc", "mlp.c_proj"],
            rank_pattern={"c_fc": 2},
            fan_in_fan_out=True,
        ),
        "bias-all": _lora(r=3, lora_alpha=6, target_modules=["c_attn"], bias="all", fan_in_fan_out=True),
        "bias-own": _lora(r=3, lora_alpha=6, target_modules=["c_attn"], bias="lora_only", fan_in_fan_out=True),
        "lora-bias": _lora(r=3, lora_alpha=5, target_modules=["c_fc"], lora_bias=True, fan_in_fan_out=True),
        "dora": _lora(r=4, target_modules=["c_attn", "c_fc"], use_dora=True, bias="lora_only", fan_in_fan_out=True),
        "embedding": _lora(r=4, lora_alpha=12, target_modules=["wte", "wpe"]),
        "head": _lora(r=4, lora_alpha=12, target_modules=["c_attn", "lm_head"], fan_in_fan_out=True),
        "saved": _lora(
            r=2, target_modules=["c_attn"], modules_to_save=["wte", "wpe", "ln_1", "c_fc"], fan_in_fan_out=True
        ),
        "adalora": AdaLoraConfig(
            init_r=4, lora_alpha=16, target_modules=["c_attn"], total_step=10, fan_in_fan_out=True, **DEFAULTS
        ),
        "vera": VeraConfig(r=8, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True, **DEFAULTS),
        "ia3": IA3Config(
            target_modules=["c_attn", "mlp.c_proj"],
            feedforward_modules=["mlp.c_proj"],
            fan_in_fan_out=True,
            **DEFAULTS,
        ),
    }


def qwen2_formats() -> dict[str, PeftConfig]:
    """What depends on the biases of linear layers: Qwen2 has them in attention."""
    return {
        "bias-own": _lora(r=3, lora_alpha=6, target_modules=["q_proj", "o_proj"], bias="lora_only"),
        "lora-bias": _lora(r=3, lora_alpha=5, target_modules=ATTENTION, lora_bias=True, use_rslora=True),
        "dora": _lora(r=4, target_modules=ATTENTION, use_dora=True, bias="all"),
        "saved": _lora(r=4, target_modules=["up_proj"], modules_to_save=["k_proj", "post_attention_layernorm"]),
        "ia3": IA3Config(target_modules=["k_proj", "q_proj"], feedforward_modules=["q_proj"], **DEFAULTS),
    }


def write_peft(base: Path, folder: Path, config: PeftConfig, *, seed: int, **saving: Any) -> Path:
    """An adapter for the model at `base` with every trained parameter away from where it began, as PEFT saves it."""
    torch.manual_seed(seed)
    with quiet():
        model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        unsettle(model)
        model.save_pretrained(str(folder), **saving)
    return folder


def unsettle(model: Any, strength: float = 0.15) -> None:
    """Add noise to every parameter that is trained."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=strength)


def write_folder(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Path:
    """An adapter from its configuration and its tensors, of which `base_model.model.` is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def with_peft(base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """PEFT's own model of the adapter on its base, not merged."""
    with quiet():
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), str(folder)).eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Without PEFT's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _lora(**options: Any) -> LoraConfig:
    return LoraConfig(**DEFAULTS, **options)
