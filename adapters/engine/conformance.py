"""Proof, when a model is loaded, that the engine computes what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from graftwork.adapters.engine import masks
from graftwork.adapters.engine.batch import Piece
from graftwork.adapters.engine.runner import Runner
from graftwork.errors import InvalidCheckpoint

PROMPTS = (7, 5)
"""Tokens of the two prompts that are compared; the first is computed in three pieces, the last of one token."""
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Accepted difference relative to the largest logit."""


def pages_needed(page_tokens: int) -> int:
    """Pages of the cache in which the comparison fits."""
    return sum(-(-length // page_tokens) for length in PROMPTS)


def prompts(model: PreTrainedModel) -> list[list[int]]:
    """Two short prompts within the model's vocabulary, always the same."""
    embedding: Any = model.get_input_embeddings()
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(len(embedding.weight), (length,), generator=generator).tolist() for length in PROMPTS]


@torch.inference_mode()
def expected_logits(model: PreTrainedModel) -> list[Tensor]:
    """The last logits of each prompt on its own, by transformers' attention: [vocabulary] each."""
    return [
        model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0, -1]
        for prompt in prompts(model)
    ]


def require_conformance(runner: Runner, expected: list[Tensor], path: Path, max_tokens: int) -> None:
    """Compare both prompts, packed together and the first one in pieces, with `expected`. The cache must be unused.

    A model that keeps a state of its own, mixes packed sequences or wants another attention is refused here, and so is
    one that would within `max_tokens` see less by its masks than packed attention lets it. Raises InvalidCheckpoint.
    """
    try:
        with masks.watched(runner.model) as untold, runner.attachments.observing():
            got = packed_logits(runner)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidCheckpoint(path=str(path), reason=f"the embedded engine cannot run it: {error}") from error
    for ours, theirs in zip(got, expected, strict=True):
        scale = theirs.float().abs().max().clamp(min=1e-6)
        worst = float((ours.float() - theirs.float()).abs().max() / scale)
        if not worst <= TOLERANCE.get(theirs.dtype, 1e-1):
            reason = f"the embedded engine computes other logits than transformers does (off by {worst:.1%})"
            raise InvalidCheckpoint(path=str(path), reason=reason)
    if untold and min(untold) < max_tokens:
        reason = (
            f"some of its layers see {min(untold)} tokens at a time, which the embedded engine cannot compute; "
            f"set max_model_tokens to {min(untold)} or less"
        )
        raise InvalidCheckpoint(path=str(path), reason=reason)


def packed_logits(runner: Runner) -> list[Tensor]:
    """The last logits of each prompt by the engine, in packed batches."""
    first, second = prompts(runner.model)
    pages = list(range(pages_needed(runner.cache.page_tokens)))
    split = runner.cache.pages_for(len(first))

    def piece(prompt: list[int], start: int, end: int, at: list[int]) -> Piece:
        return Piece(prompt[start:end], start, at, None, wants_logits=end == len(prompt))

    begun, whole = piece(first, 0, 4, pages[:split]), piece(second, 0, len(second), pages[split:])
    second_logits = runner.forward([begun, whole])[0]
    runner.forward([piece(first, 4, len(first) - 1, pages[:split])])
    return [runner.forward([piece(first, len(first) - 1, len(first), pages[:split])])[0], second_logits]
