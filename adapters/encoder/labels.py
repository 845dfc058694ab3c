"""What the logits of a classification mean: the names of the labels, and how scores are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.peft import CONFIG_FILE as ADAPTER_CONFIG_FILE

CONFIG_FILE = "config.json"
OTHER_TASKS = ("TOKEN_CLS", "QUESTION_ANS")
"""PEFT's tasks whose heads are called like a classification's and are none of a whole text."""


@dataclass(frozen=True, slots=True)
class Labels:
    """One name a label, and the sort of problem that a head was trained for, in transformers' words."""

    names: tuple[str, ...]
    problem: str | None = None
    """`single_label_classification`, `multi_label_classification`, `regression`, or unknown."""

    def scores(self, logits: Tensor) -> Tensor:
        """As transformers' text-classification pipeline: softmax over the labels, sigmoid where they do not exclude
        each other or there is only one, the logits themselves of a regression.

        logits: [labels] -> [labels]
        """
        if self.problem == "regression":
            return logits
        if self.problem == "multi_label_classification" or len(self.names) == 1:
            return torch.sigmoid(logits)
        return torch.softmax(logits, -1)


def read_labels(folder: Path | None, count: int, fallback: Labels | None = None) -> Labels:
    """The labels that `config.json` in `folder` names, if it names `count`; else `fallback` if it does; else LABEL_0,
    LABEL_1, ... as transformers has it.
    """
    path = folder / CONFIG_FILE if folder is not None else None
    if path is not None and path.is_file():
        config = read_object(path, CONFIG_FILE)
        problem = config.get("problem_type")
        names = _names(config.get("id2label"), count)
        if names:
            return Labels(names, problem if isinstance(problem, str) else None)
    if fallback is not None and len(fallback.names) == count:
        return fallback
    return Labels(tuple(f"LABEL_{number}" for number in range(count)))


def task_of(folder: Path) -> str | None:
    """The `task_type` of the adapter in `folder`, if it says."""
    path = folder / ADAPTER_CONFIG_FILE
    task = read_object(path, ADAPTER_CONFIG_FILE).get("task_type") if path.is_file() else None
    return task if isinstance(task, str) else None


def _names(named: object, count: int) -> tuple[str, ...]:
    """`id2label` in order, if it has a name for each of `count` labels and no more."""
    if not isinstance(named, Mapping) or len(named) != count:
        return ()
    found = [named.get(str(number)) for number in range(count)]
    return tuple(map(str, found)) if all(isinstance(name, str) for name in found) else ()
