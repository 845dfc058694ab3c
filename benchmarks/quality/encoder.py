"""Sentences in, unit vectors out; and heads that are fixed before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchmarks.quality.tasks import Example, Task

LONGEST = 48
"""Tokens of a sentence that are read."""
BATCH = 64
SHOTS = 4
"""Examples of each class that a head is made from."""
SHARPNESS = 10.0


class Encoder:
    """A MiniLM checkpoint with its tokenizer; a sentence's vector is the mean over its tokens, of length 1."""

    def __init__(self, folder: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.model: nn.Module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def forward(self, rows: Sequence[list[int]]) -> Tensor:
        """float32[rows, width]: the vectors of token rows, with gradients; matrix products in bfloat16."""
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        present = mask[:, :, None].float()
        return nn.functional.normalize((states.float() * present).sum(1) / present.sum(1), dim=-1)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """float32[texts, width], in the order of the texts; sentences of like length are computed together."""
        rows = self.tokens(texts)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        with torch.inference_mode():
            parts = [
                self.forward([rows[place] for place in order[start : start + BATCH]])
                for start in range(0, len(rows), BATCH)
            ]
        back = torch.empty(len(rows), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(rows))
        return torch.cat(parts)[back].clone()


class Head:
    """A linear classifier that nothing trains: the centroid of a few examples of each class, as the base sees them.

    logits = SHARPNESS * (e - m) c_k, with m the mean of the centroids and c_k centroid k less m, of length 1.
    """

    def __init__(self, base: Encoder, task: Task) -> None:
        shots = [_first(task.train, label) for label in range(task.classes)]
        centroids = torch.stack([base.embed(texts).mean(0) for texts in shots])
        self.middle = centroids.mean(0)
        self.directions = nn.functional.normalize(centroids - self.middle, dim=-1)

    def logits(self, vectors: Tensor) -> Tensor:
        """float32[rows, classes]."""
        return SHARPNESS * (vectors - self.middle) @ self.directions.T

    def hits(self, encoder: Encoder, examples: Sequence[Example]) -> list[bool]:
        """Of each example, whether its class has the largest logit."""
        chosen = self.logits(encoder.embed([example.text for example in examples])).argmax(-1)
        hits: list[bool] = (chosen == torch.tensor([example.label for example in examples])).tolist()
        return hits


def _first(examples: Sequence[Example], label: int) -> list[str]:
    return [example.text for example in examples if example.label == label][:SHOTS]
