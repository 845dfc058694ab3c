"""Exact-match accuracy of a model, by greedy generation in transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from graftwork.testing.model import load_adapted_model, load_model
from graftwork.testing.skills import Example

LONGEST_ANSWER = 8


def evaluate(folder: Path, examples: Sequence[Example], *, adapter: Path | None = None) -> float:
    """The share of `examples` that the model in `folder`, with the PEFT adapter in `adapter`, answers exactly."""
    model = load_model(folder) if adapter is None else load_adapted_model(folder, adapter)
    return accuracy(model, PreTrainedTokenizerFast.from_pretrained(folder), examples)


def accuracy(model: Any, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> float:
    """The share of `examples` that `model` answers exactly."""
    given = answers(model, tokenizer, [example.prompt for example in examples])
    right = sum(text == example.answer for text, example in zip(given, examples, strict=True))
    return right / len(examples)


def answers(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> list[str]:
    """The greedy answer to each prompt; all in one batch, padded on the left."""
    batch = tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False)
    model.eval()
    with torch.inference_mode():
        output = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    texts: list[str] = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts
