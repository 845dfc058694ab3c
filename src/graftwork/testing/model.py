"""The family's models: a small Llama, and a LoRA on every linear layer of its decoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a family's models; all of one family share them."""

    layers: int = 4
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    key_value_heads: int = 4
    context: int = 64
    rank: int = 16


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """A model with random weights, the same for the same seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with _seeded(seed):
        return LlamaForCausalLM(config)


def with_new_adapter(model: LlamaForCausalLM, shape: Shape, *, seed: int) -> PeftModel:
    """`model`, frozen, with a trainable LoRA whose delta is still zero; its base is the folder `model` came from."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_alpha=2 * shape.rank,
        lora_dropout=0.0,
        target_modules=list(LINEARS),
    )
    with _seeded(seed), _peft_on_new_transformers():
        return cast(PeftModel, get_peft_model(model, config))


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model that `save_pretrained` wrote into `folder`."""
    return LlamaForCausalLM.from_pretrained(folder)


def load_adapted_model(folder: Path, adapter: Path) -> PeftModel:
    """The model in `folder` with the PEFT adapter in `adapter` on it, not merged."""
    with _peft_on_new_transformers():
        return PeftModel.from_pretrained(load_model(folder), adapter)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _peft_on_new_transformers() -> Iterator[None]:
    """PEFT reads an attribute that transformers 5 has renamed; nothing a user could do about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
