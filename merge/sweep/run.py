"""Carrying out a sweep: merge, evaluate, record, keep the best; and going on where an earlier run was cut off.

The folder of a sweep holds `results.jsonl`, `models/` (a merged folder by its key), `best`, a link to the best of
them, and `logs/`, what evaluations said on stderr. A merged folder without a result was cut off before its evaluation
ended and is evaluated again; one that is to go is renamed first, so that a folder under its own name is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork import __version__
from graftwork.errors import InvalidContent, InvalidInput, InvalidSweep, OperationFailed, OutputBusy
from graftwork.merge.models.sources import Finder, Origin
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import digest
from graftwork.merge.run.run import merge
from graftwork.merge.sweep.evaluation import Evaluation
from graftwork.merge.sweep.results import Result, ResultLog, key_of
from graftwork.merge.sweep.sweep import Goal, Point
from graftwork.progress import Progress, silent
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry

RESULTS, MODELS, LOGS, BEST, LOCK = "results.jsonl", "models", "logs", "best", ".lock"
DISCARDED = ".discarded"
KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """A point with its result; `taken_over` when an earlier run had it."""

    point: Point
    result: Result
    value: float | None
    taken_over: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Every point's outcome in the order of the grid; the best one's folder is there, unless nothing succeeded."""

    outcomes: tuple[Outcome, ...]
    best: Outcome | None
    folders: Mapping[str, Path]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The points that have no value."""
        return tuple(outcome for outcome in self.outcomes if outcome.value is None)


@dataclass(frozen=True, slots=True)
class Objective:
    """The metric that decides, and which way."""

    metric: str
    goal: Goal

    def value(self, result: Result) -> float | None:
        """The metric of a result that has it."""
        return None if result.error is not None else result.metrics.get(self.metric)

    def best(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """The best outcome, the first among equals."""
        sign = 1 if self.goal == "maximise" else -1
        valued = [(sign * outcome.value, outcome) for outcome in outcomes if outcome.value is not None]
        return max(valued, key=lambda pair: pair[0])[1] if valued else None


def run_sweep(
    points: Sequence[Point],
    evaluation: Evaluation,
    objective: Objective,
    *,
    out: Path,
    settings: Settings,
    registry: Registry | None = None,
    keep_all: bool = False,
    progress: Progress = silent,
    notify: Callable[[Outcome], None] = lambda outcome: None,
    paths: bool = True,
) -> Report:
    """Merge and evaluate every point that has no result yet, and keep the folder of the best (or of all).

    notify: called with every outcome as it is known
    paths:  whether recipes may name folders of this machine

    `progress` counts points. A point whose merge or evaluation fails is recorded with its error and tried again by the
    next run. Raises InvalidSweep naming the first point that cannot be planned, before anything is merged; OutputBusy
    when another process works on `out`; and what a full disk or a changed input raises: the next run goes on.
    """
    keys = _plan_all(points, evaluation, settings, Finder(registry, paths))
    with _locked(out), ResultLog(out / RESULTS) as log:
        run = _Run(out, settings, Finder(registry, paths), evaluation, objective, log)
        outcomes: list[Outcome] = []
        for done, (point, key) in enumerate(zip(points, keys, strict=True)):
            progress("points", done, len(points))
            outcomes.append(run.outcome(point, key))
            notify(outcomes[-1])
            if not keep_all:
                run.discard(set(keys[len(outcomes) :]) | _keys(objective.best(outcomes)))
        progress("points", len(points), len(points))
        best = objective.best(outcomes)
        valued = [outcome for outcome in outcomes if outcome.value is not None]
        kept = valued if keep_all else [outcome for outcome in valued if outcome is best]
        folders = {outcome.result.key: run.merged(outcome.point, outcome.result.key) for outcome in kept}
        run.point_at(best)
        return Report(tuple(outcomes), best, folders)


class _Run:
    def __init__(
        self,
        out: Path,
        settings: Settings,
        finder: Finder,
        evaluation: Evaluation,
        objective: Objective,
        log: ResultLog,
    ) -> None:
        self.out, self.settings, self.finder = out, settings, finder
        self.evaluation, self.objective, self.log = evaluation, objective, log
        for name in (MODELS, LOGS):
            (out / name).mkdir(exist_ok=True)
        for left in (out / MODELS).glob(f"*{DISCARDED}"):
            shutil.rmtree(left)

    def folder(self, key: str) -> Path:
        return self.out / MODELS / key[:KEY_DIGITS]

    def outcome(self, point: Point, key: str) -> Outcome:
        """The result of an earlier run where it has the metric, and a new one otherwise."""
        known = self.log.find(key)
        if known is not None and self.objective.value(known) is not None:
            return Outcome(point, known, self.objective.value(known), taken_over=True)
        began = time.monotonic()
        metrics, error = self._try(point, key)
        seconds = round(time.monotonic() - began, 3)
        result = Result(key, digest(point.recipe), point.values, metrics, error, seconds)
        self.log.append(result)
        return Outcome(point, result, self.objective.value(result), taken_over=False)

    def merged(self, point: Point, key: str) -> Path:
        """The merged folder of a point, made where it is not there."""
        folder = self.folder(key)
        if not folder.exists():
            registry, paths = self.finder.registry, self.finder.paths
            merge(point.recipe, out=folder, registry=registry, settings=self.settings, paths=paths)
        return folder

    def _try(self, point: Point, key: str) -> tuple[Mapping[str, float], str | None]:
        """Metrics, and why the point failed if it did."""
        try:
            folder = self.merged(point, key)
        except (InvalidInput, InvalidContent) as error:
            return {}, str(error)
        try:
            metrics = self.evaluation.measure(folder, self.out / LOGS / f"{key[:KEY_DIGITS]}.txt")
        except OperationFailed as error:
            return {}, str(error)
        if self.objective.metric in metrics:
            return metrics, None
        found = ", ".join(metrics) or "no numbers"
        return metrics, f"The evaluation gave no {self.objective.metric!r}; it gave {found}."

    def discard(self, wanted: set[str]) -> None:
        """Remove every merged folder, whole or partial, whose key is not wanted."""
        names = {key[:KEY_DIGITS] for key in wanted}
        for folder in (self.out / MODELS).iterdir():
            if folder.name.split(".")[0] not in names:
                gone = folder.with_name(folder.name + DISCARDED)
                folder.rename(gone)
                shutil.rmtree(gone)

    def point_at(self, best: Outcome | None) -> None:
        """Make `best` a link to the best folder, in one step."""
        link = self.out / BEST
        if best is None:
            link.unlink(missing_ok=True)
            return
        fresh = self.out / f"{BEST}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(MODELS) / self.folder(best.result.key).name, target_is_directory=True)
        fresh.replace(link)


def _plan_all(points: Sequence[Point], evaluation: Evaluation, settings: Settings, finder: Finder) -> list[str]:
    """The key of every point: its recipe, the state of its inputs, the evaluation and the version of this program."""
    states: dict[str, Any] = {}
    keys = []
    for point in points:
        try:
            plan(point.recipe, settings=settings, registry=finder.registry, paths=finder.paths).close()
        except InvalidInput as error:
            raise InvalidSweep(where=f"the point {point.label}", reason=str(error).rstrip(".")) from None
        for reference in point.recipe.references:
            if reference not in states:
                states[reference] = _state(finder.find(reference))
        keys.append(
            key_of(
                recipe=digest(point.recipe),
                inputs=[states[reference] for reference in point.recipe.references],
                evaluation=evaluation.identity,
                version=__version__,
            )
        )
    return keys


def _state(origin: Origin) -> Any:
    """What tells that an input changed: a version's digest, or name, size and time of a folder's files."""
    if origin.adapter is not None:
        return [_state(replace(origin, adapter=None)), _state(origin.adapter)]
    if origin.version is not None:
        return origin.version.digest
    files = sorted(origin.root.iterdir()) if origin.root.is_dir() else [origin.root]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in stats]


def _keys(outcome: Outcome | None) -> set[str]:
    return set() if outcome is None else {outcome.result.key}


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(path=str(out)) from None
        yield
    finally:
        os.close(lock)
