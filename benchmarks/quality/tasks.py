"""The tasks: sentences with classes, cut into training, validation and test examples that never overlap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HOLD_OUT = 10
"""Where a task has no split of its own, every tenth line is one."""
SIZES = {"train": 4800, "validation": 200, "test": 500}


@dataclass(frozen=True, slots=True)
class Example:
    """One sentence and the number of its class."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class Task:
    """One task. The heads take their examples from `train`, coefficients are chosen on `validation`."""

    name: str
    classes: int
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Where a task's examples are; a split without a file of its own is held out of the training file."""

    train: str
    validation: str | None = None
    test: str | None = None


FILES = {
    "TREC": Files("TREC.train.all", test="TREC.test.all"),
    "custrev": Files("custrev.all"),
    "mpqa": Files("mpqa.all"),
    "stsa": Files("stsa.binary.train", "stsa.binary.dev", "stsa.binary.test"),
    "subj": Files("subj.all"),
}


def load_tasks(folder: Path, seed: int) -> tuple[Task, ...]:
    """Every task of FILES from `folder`, its splits shuffled by `seed` and cut to SIZES."""
    return tuple(_load(name, files, folder, seed) for name, files in FILES.items())


def read_examples(path: Path) -> list[Example]:
    """One example a line, `<label> <text>`; the files are in UTF-8 or in Latin-1, and only newlines end a line."""
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    rows = (line.split(" ", 1) for line in text.split("\n") if line.strip())
    return [Example(sentence.strip(), int(label)) for label, sentence in rows]


def _load(name: str, files: Files, folder: Path, seed: int) -> Task:
    train = read_examples(folder / files.train)
    splits: dict[str, Sequence[Example]] = {}
    for split, file in (("test", files.test), ("validation", files.validation)):
        if file is None:
            splits[split] = train[HOLD_OUT - 1 :: HOLD_OUT]
            train = [example for line, example in enumerate(train, start=1) if line % HOLD_OUT]
        else:
            splits[split] = read_examples(folder / file)
    splits["train"] = train
    chosen = {split: _shuffled(examples, f"{seed} {name} {split}", SIZES[split]) for split, examples in splits.items()}
    return Task(name, 1 + max(example.label for example in train), **chosen)


def _shuffled(examples: Sequence[Example], seed: str, size: int) -> tuple[Example, ...]:
    order = list(examples)
    random.Random(seed).shuffle(order)
    return tuple(order[:size])
