"""The models that are merged: Llamas of four layers with grouped-query attention, and one with another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(93))]
OTHER_WORDS = ["<unk>", "<s>", "</s>", *(f"word{number}" for number in range(90, 20, -1)), "new0", "new1", "new2"]
LAYERS = 4
CHANGE = 0.02
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_models(root: Path, dtype: str) -> dict[str, str]:
    """A base, three fine-tunes, one of another vocabulary, and the base with a LoRA: their references by name."""
    base = _new(len(WORDS))
    found = {"base": _save(base, root / "base", WORDS, dtype)}
    for seed, name in enumerate("abc", start=1):
        found[name] = _save(_changed(base, seed), root / name, WORDS, dtype)
    other = _changed(_new(len(OTHER_WORDS)), 9)
    found["other"] = _save(other, root / "other", OTHER_WORDS, dtype)
    torch.manual_seed(5)
    adapted = get_peft_model(_changed(base, 0), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(str(root / "lora"))
    found["adapted"] = f"{root / 'base'}+{root / 'lora'}"
    return found


def _new(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _changed(model: LlamaForCausalLM, seed: int) -> LlamaForCausalLM:
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            change = torch.randn(parameter.shape, generator=random)
            chosen = torch.rand(parameter.shape, generator=random) < 0.5
            parameter.add_(CHANGE * seed * change * chosen)
    return copy


def _save(model: LlamaForCausalLM, folder: Path, words: Sequence[str], dtype: str) -> str:
    torch.nn.Module.to(model, DTYPES[dtype]).save_pretrained(folder)
    torch.nn.Module.to(model, torch.float32)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token=words[0], bos_token=words[1], eos_token=words[2]
    )
    fast.save_pretrained(folder)
    return str(folder)
