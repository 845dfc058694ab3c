"""From tasks and encoders to the rows of the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.quality.candidates import Candidate
from benchmarks.quality.encoder import Encoder, Head
from benchmarks.quality.fine_tunes import Training, fine_tune, prepare_base
from benchmarks.quality.scores import METRIC, Hits, Judge, Scores, Split, accuracies, hits_of
from benchmarks.quality.tasks import Task
from graftwork.merge.sweep.run import Objective, Outcome, run_sweep
from graftwork.merge.sweep.sweep import expand
from graftwork.settings import Settings

SPLITS: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True, slots=True)
class Row:
    """One encoder, or one set of encoders, with its test scores. `coefficient` was chosen on validation data."""

    name: str
    scores: Scores
    stored: int
    settings: str = "-"
    coefficient: str = "-"
    seconds: float = 0.0
    search: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A row that could not be measured."""

    name: str
    reason: str


class Laboratory:
    """The tasks with their heads and fine-tunes in a work folder; what was measured before is not measured again."""

    def __init__(self, tasks: Sequence[Task], work: Path, seed: int, say: Callable[[str], None]) -> None:
        self.tasks, self.work, self.seed = tasks, work, seed
        self.base = prepare_base(work)
        encoder = Encoder(self.base)
        self.heads = {task.name: Head(encoder, task) for task in tasks}
        self.fine_tunes: dict[str, Path] = {}
        for task in tasks:
            say(f"fine-tuning for {task.name}")
            head = self.heads[task.name]
            self.fine_tunes[task.name] = fine_tune(task, head, self.base, work, Training(seed))
        own = {name: Encoder(folder) for name, folder in self.fine_tunes.items()}
        self.best = {
            split: {task.name: fmean(self._hits(task, own[task.name], split)) for task in tasks} for split in SPLITS
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Test sentences by task."""
        return {task.name: len(task.test) for task in self.tasks}

    def bounds(self) -> tuple[Row, Row]:
        """The base alone, and every fine-tune at its own task."""
        own = {task.name: self._hits(task, Encoder(self.fine_tunes[task.name]), "test") for task in self.tasks}
        base = hits_of(Encoder(self.base), self.tasks, self.heads, "test")
        kept = sum(weight_bytes(folder) for folder in self.fine_tunes.values())
        return (
            Row("base, no fine-tuning", Scores(base, self.best["test"]), weight_bytes(self.base)),
            Row("all fine-tunes, each at its task", Scores(own, self.best["test"]), kept),
        )

    def crossed(self) -> dict[str, dict[str, float]]:
        """Test accuracy of each fine-tune at every task."""
        return {
            name: accuracies(hits_of(Encoder(folder), self.tasks, self.heads, "test"))
            for name, folder in self.fine_tunes.items()
        }

    def measure(self, candidate: Candidate) -> Row | Failure:
        """Search the coefficient on validation data, and score the best on test data."""
        points = expand(candidate.recipe(self.base, self.fine_tunes.values()), candidate.grid)
        report = run_sweep(
            points,
            self._judge("validation"),
            Objective(METRIC, "maximise"),
            out=self.work / "sweeps" / candidate.folder,
            settings=Settings(threads=1),
        )
        if report.best is None:
            return Failure(candidate.name, report.failed[0].result.error or "nothing succeeded")
        folder = report.folders[report.best.result.key]
        hits = self._test(report.best.result.key, folder)
        value = None if candidate.path is None else report.best.point.values[candidate.path]
        return Row(
            candidate.name,
            Scores(hits, self.best["test"]),
            weight_bytes(folder),
            candidate.settings,
            "-"
            if candidate.path is None
            else f"{candidate.path.rsplit('.', 1)[-1]} {value}{_at_edge(candidate, value)}",
            sum(outcome.result.seconds for outcome in report.outcomes),
            report.outcomes,
        )

    def _test(self, key: str, folder: Path) -> Hits:
        kept = self.work / "hits" / f"{key}.json"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(hits_of(Encoder(folder), self.tasks, self.heads, "test")))
        found: Hits = json.loads(kept.read_text())
        return found

    def _hits(self, task: Task, encoder: Encoder, split: Split) -> list[bool]:
        return self.heads[task.name].hits(encoder, getattr(task, split))

    def _judge(self, split: Split) -> Judge:
        return Judge(self.tasks, self.heads, self.best[split], split, self.seed)


def weight_bytes(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _at_edge(candidate: Candidate, value: Any) -> str:
    return " (end of the grid)" if value in (candidate.values[0], candidate.values[-1]) else ""
