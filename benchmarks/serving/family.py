"""One base with random weights, and adapters of ranks 8 to 64 on two sets of its layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 8192
RANKS = (8, 16, 32, 64)
EVERY_LAYER = "all linear"
SETS: Mapping[str, Sequence[str]] = {
    "q, v": ("q_proj", "v_proj"),
    EVERY_LAYER: ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
"""PEFT's default for a Llama, and what most people train."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where the models are: a checkpoint folder, and PEFT adapter folders by their set of layers."""

    base: Path
    adapters: Mapping[str, Sequence[Path]]
    parameters: int


def build_family(root: Path, *, hidden: int, layers: int, adapters: int, dtype: torch.dtype) -> Family:
    """A Llama with a third of its heads for keys, in `dtype`, and `adapters` adapters a set, in float32."""
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=64,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(root / "base")
    words = {f"w{index}": index for index in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, "w0"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1")  # type: ignore[no-untyped-call]
    fast.save_pretrained(root / "base")
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters() if name.endswith("proj.weight")}
    folders = {
        label: [
            _adapter(root / f"{label.replace(', ', '')}-{index}", shapes, targets, index) for index in range(adapters)
        ]
        for label, targets in SETS.items()
    }
    return Family(root / "base", folders, sum(weight.numel() for weight in model.parameters()))


def _adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]], targets: Sequence[str], index: int) -> Path:
    """An adapter as PEFT saves it, written directly: thirty-two times PEFT's own way would take minutes."""
    rank = RANKS[index % len(RANKS)]
    generator = torch.Generator().manual_seed(index)
    tensors = {}
    for name, (out_features, in_features) in shapes.items():
        module = name.removesuffix(".weight")
        if module.endswith(tuple(targets)):
            a = torch.randn(rank, in_features, generator=generator) * 0.02
            b = torch.randn(out_features, rank, generator=generator) * 0.02
            tensors[f"base_model.model.{module}.lora_A.weight"] = a
            tensors[f"base_model.model.{module}.lora_B.weight"] = b
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(targets),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
