"""How good an encoder is at every task: absolute accuracies, and relative to each task's own fine-tune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any, Literal

from benchmarks.quality import encoder, tasks
from benchmarks.quality.encoder import Encoder, Head
from benchmarks.quality.tasks import Task

Split = Literal["validation", "test"]
METRIC = "normalised"


Hits = Mapping[str, Sequence[bool]]
"""By task, of each example, whether it was classified rightly."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What was classified rightly at every task, with the accuracies of the fine-tunes that it is measured against."""

    hits: Hits
    best: Mapping[str, float]

    @property
    def accuracies(self) -> dict[str, float]:
        """Accuracies by task, 0 to 1."""
        return accuracies(self.hits)

    @property
    def mean(self) -> float:
        """The mean accuracy over the tasks."""
        return fmean(self.accuracies.values())

    @property
    def relative(self) -> dict[str, float]:
        """Accuracy divided by the fine-tune's, by task."""
        return {name: accuracy / self.best[name] for name, accuracy in self.accuracies.items()}

    @property
    def normalised(self) -> float:
        """The mean over the tasks of the accuracy divided by the fine-tune's."""
        return fmean(self.relative.values())

    @property
    def worst(self) -> str:
        """The task that lost most against its fine-tune."""
        return min(self.relative, key=self.relative.__getitem__)

    def behind(self, other: Scores) -> tuple[float, float]:
        """How far `normalised` is below the other's, and the standard error of that, sentence against sentence."""
        differences = {
            name: [(theirs - ours) / self.best[name] for ours, theirs in zip(hits, other.hits[name], strict=True)]
            for name, hits in self.hits.items()
        }
        variance = sum(pvariance(values) / len(values) for values in differences.values())
        return fmean(map(fmean, differences.values())), math.sqrt(variance) / len(differences)


@dataclass(frozen=True, slots=True)
class Judge:
    """Scores encoders on one split of every task; the evaluation of a sweep."""

    tasks: Sequence[Task]
    heads: Mapping[str, Head]
    best: Mapping[str, float]
    split: Split
    seed: int

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the scores depend on besides the encoder."""
        examples = {"sizes": tasks.SIZES, "shots": encoder.SHOTS, "longest": encoder.LONGEST}
        return {"judge": "quality", "split": self.split, "seed": self.seed, **examples}

    def measure(self, model: Path, log: Path | None = None) -> dict[str, float]:
        """The accuracy at each task and the mean normalised accuracy."""
        scores = Scores(hits_of(Encoder(model), self.tasks, self.heads, self.split), self.best)
        return {**scores.accuracies, METRIC: scores.normalised}


def hits_of(encoder: Encoder, tasks: Sequence[Task], heads: Mapping[str, Head], split: Split) -> Hits:
    """What an encoder classifies rightly at each task under its own head."""
    return {task.name: heads[task.name].hits(encoder, getattr(task, split)) for task in tasks}


def accuracies(hits: Hits) -> dict[str, float]:
    """The share of hits by task."""
    return {name: fmean(values) for name, values in hits.items()}
