"""A random base and any number of LoRA adapters on it, as PEFT would have saved them, written in a moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 2048
EVERYTHING = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = EVERYTHING[:4]


def write_base(folder: Path, *, hidden: int, layers: int, dtype: torch.dtype, spread: float = 0.02) -> Path:
    """A Llama whose weights are normal with the standard deviation `spread`."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=spread,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    words = {f"w{index}": index for index in range(VOCABULARY)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0"))).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def write_adapters(
    root: Path, base: Path, ranks: Iterable[int], targets: Sequence[str], *, dtype: torch.dtype, spread: float = 0.02
) -> list[Path]:
    """One adapter for each of `ranks`; all of them differ."""
    config: Any = LlamaConfig.from_pretrained(base)
    head = config.hidden_size // config.num_attention_heads
    kv, inner, hidden = config.num_key_value_heads * head, config.intermediate_size, config.hidden_size
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, kv),
        "self_attn.v_proj": (hidden, kv),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    folders = []
    for number, rank in enumerate(ranks):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for layer in range(config.num_hidden_layers):
            for module, (inputs, outputs) in shapes.items():
                if module.rpartition(".")[2] in targets:
                    name = f"base_model.model.model.layers.{layer}.{module}"
                    for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                        values = torch.randn(shape, generator=generator) * spread
                        tensors[f"{name}.lora_{side}.weight"] = values.to(dtype)
        folder = root / f"adapter{number}"
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        described = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets)}
        (folder / "adapter_config.json").write_text(json.dumps(described))
        folders.append(folder)
    return folders
