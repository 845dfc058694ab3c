"""Proof, when an encoder is loaded, that the engine computes what transformers computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftwork.adapters.encoder.attention import Spans
from graftwork.adapters.encoder.batch import Piece, Tokens
from graftwork.adapters.encoder.checkpoint import EncoderCheckpoint
from graftwork.adapters.encoder.positions import Positions
from graftwork.adapters.encoder.runner import Runner
from graftwork.adapters.engine.conformance import TOLERANCE
from graftwork.errors import InvalidCheckpoint

LENGTHS = (7, 5, 7, 1)
"""Tokens of the texts that are compared."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What transformers computes of each text by itself."""

    vectors: list[Tensor]
    logits: list[Tensor]
    """Empty from a model that has no head."""


def texts(checkpoint: EncoderCheckpoint, positions: Positions) -> list[Tokens]:
    """Short texts within the model's vocabulary, always the same, as long as it has positions for."""
    generator = torch.Generator().manual_seed(0)
    lengths = (min(length, positions.limit or length) for length in LENGTHS)
    draws = [torch.randint(checkpoint.vocabulary, (length,), generator=generator).tolist() for length in lengths]
    return [Tokens(draw) for draw in draws]


@torch.inference_mode()
def expected(checkpoint: EncoderCheckpoint, positions: Positions) -> Expected:
    """By transformers' own attention, one text after the other."""
    vectors, logits = [], []
    for text in texts(checkpoint, positions):
        ids = torch.tensor([text.ids], device=checkpoint.model.device)
        mask = torch.ones_like(ids)
        states = checkpoint.trunk(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors.append(checkpoint.pooling.vectors(states[0], Spans([len(text)], ids.device))[0].cpu())
        output: Any = checkpoint.model(input_ids=ids, attention_mask=mask)
        if hasattr(output, "logits"):
            logits.append(output.logits[0].float().cpu())
    return Expected(vectors, logits)


def require_conformance(runner: Runner, wanted: Expected, checkpoint: EncoderCheckpoint) -> None:
    """Compare the texts, packed together, with `wanted`.

    A model that mixes packed texts or wants another attention is refused here. Raises InvalidCheckpoint.
    """
    pieces = [Piece(text, None) for text in texts(checkpoint, runner.positions)]
    try:
        vectors, logits = runner.forward(pieces)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"the embedded engine cannot run it: {error}"
        raise InvalidCheckpoint(path=str(checkpoint.folder), reason=reason) from error
    tolerance = TOLERANCE.get(checkpoint.model.dtype, 1e-1)
    for what, ours, theirs in (("vectors", vectors, wanted.vectors), ("logits", logits or [], wanted.logits)):
        for got, want in zip(ours, theirs, strict=True):
            worst = float((got - want).abs().max() / want.abs().max().clamp(min=1e-6))
            if not worst <= tolerance:
                reason = f"the embedded engine computes other {what} than transformers does (off by {worst:.1%})"
                raise InvalidCheckpoint(path=str(checkpoint.folder), reason=reason)
