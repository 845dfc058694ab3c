"""A compact training loop: cross-entropy on the answers, AdamW, cosine decay after a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from graftwork.progress import Progress, silent
from graftwork.testing.skills import Example
from graftwork.testing.tokenizer import END

IGNORED = -100
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a model is trained."""

    steps: int
    learning_rate: float
    batch: int = 64
    warmup: int = 10

    @property
    def examples(self) -> int:
        """Examples seen in all."""
        return self.steps * self.batch

    def rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    schedule: Schedule,
    *,
    stage: str = "train",
    progress: Progress = silent,
) -> list[float]:
    """Train what takes gradients in `model` on `examples` in their order, over again when they run out.

    Returns the loss of every step. `progress` counts steps.
    """
    tokens, labels = encode(tokenizer, examples)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    model.train()
    for step in range(schedule.steps):
        rows = torch.arange(step * schedule.batch, (step + 1) * schedule.batch) % len(examples)
        loss = answer_loss(model, tokens[rows], labels[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        progress(stage, step + 1, schedule.steps)
    model.eval()
    return losses


def answer_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the answers' tokens; both arguments are int64[batch, length]."""
    following = labels[:, 1:]
    counted = following != IGNORED
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits[counted].float(), following[counted])


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Tokens and labels, int64[examples, length], padded on the right; answers and their end have labels."""
    prompts: list[list[int]] = tokenizer([example.prompt for example in examples])["input_ids"]
    answers: list[list[int]] = tokenizer([example.answer + END for example in examples])["input_ids"]
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    tokens = torch.full((len(examples), length), tokenizer.pad_token_id)
    labels = torch.full((len(examples), length), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels
