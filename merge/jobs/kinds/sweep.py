"""Sweeping: the points of a grid over a recipe, merged and judged; the best one becomes a version."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from graftwork.errors import HubUnavailable, InputChanged, OperationFailed
from graftwork.merge.evaluation.evaluator import evaluator_named
from graftwork.merge.evaluation.metric import SCHEME, goal_of
from graftwork.merge.evaluation.yardstick import Yardstick, check_measured, find_dataset, layout_of
from graftwork.merge.jobs.kind import Fired, Kind, Order
from graftwork.merge.jobs.kinds.merge import pin
from graftwork.merge.jobs.submit import outcome_of, submit
from graftwork.merge.jobs.work import Work
from graftwork.merge.models.sources import Finder
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.publish import publish
from graftwork.merge.sweep.evaluation import Evaluation
from graftwork.merge.sweep.run import Objective, Outcome, run_sweep
from graftwork.merge.sweep.sweep import Goal, Point, Steps, expand
from graftwork.registry.jobs.jobs import Job
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind as ArtifactKind
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings


class SweepJudge(Yardstick):
    """What decides between the points."""

    field = "evaluate.metric"
    metric: str = Field(description="the metric that decides")
    goal: Goal | None = Field(default=None, description="which way is better; told by the metric where that is known")


class SweepOrder(Order):
    """A recipe, a grid over it, what judges each point, and the artifact that the best one belongs to."""

    name: str = Field(description="the artifact that the best point becomes a version of")
    recipe: dict[str, Any] = Field(description="a merge recipe")
    grid: dict[str, list[Any] | Steps] = Field(
        min_length=1,
        description="values by their place in the recipe",
        examples=[{"parameters.lambda": [0.4, 0.7, 1.0]}],
    )
    evaluate: SweepJudge
    aliases: list[str] = Field(default=[], description="aliases that are moved to the best point's version")


def submit_sweep(
    registry: Registry, settings: Settings, order: SweepOrder, *, priority: int = 0, owner: str = ""
) -> Job:
    """Queue a sweep over the versions that are meant now. Raises what is wrong with the recipe, the grid or the judge.

    Folders of this machine are not accepted as models.
    """
    pinned = pinned_order(registry, order)
    check_measured(registry, settings, pinned.evaluate, [pinned.evaluate.metric])
    return submit(registry, "sweep", plain(pinned), priority=priority, owner=owner)


def pinned_order(registry: Registry, order: SweepOrder) -> SweepOrder:
    """The order with its references pinned. Raises InvalidRecipe, InvalidSweep, and what resolving raises."""
    recipe = pin(load_recipe(order.recipe), Finder(registry, paths=False))
    judge = order.evaluate
    if judge.dataset is not None:
        judge = judge.model_copy(update={"dataset": find_dataset(registry, judge.dataset).ref})
    plain_recipe = recipe.model_dump(mode="json", exclude_defaults=True)
    pinned = order.model_copy(update={"recipe": plain_recipe, "evaluate": judge})
    _points(pinned)
    return pinned


def plain(order: SweepOrder) -> dict[str, Any]:
    """The order as plain values; `from` keeps its name."""
    return order.model_dump(mode="json", by_alias=True)


def run(work: Work, order: SweepOrder) -> None:
    """Merge and judge every point, register the best, and end the job in the same transaction.

    The folder of the sweep outlives a worker that is killed, so that the next attempt goes on in it.
    """
    points = _points(order)
    metric = order.evaluate.metric
    objective = Objective(metric, order.evaluate.goal or goal_of(metric))
    digest = hashlib.sha256(order.model_dump_json(by_alias=True).encode()).hexdigest()
    folder = work.registry.home / "sweeps" / digest[:32]

    def notify(outcome: Outcome) -> None:
        work.log(f"{outcome.point.label}: {outcome.result.error or f'{metric} {outcome.value:.6g}'}")

    report = run_sweep(
        points,
        _evaluation(work, order, points),
        objective,
        out=folder,
        settings=work.settings,
        registry=work.registry,
        progress=work.progress,
        notify=notify,
        paths=False,
    )
    best = report.best
    if best is None:
        raise OperationFailed(what="Every point of the sweep", reason=str(report.outcomes[0].result.error).rstrip("."))
    chosen = {"values": dict(best.point.values), "metric": metric, "value": best.value, "points": len(points)}

    def finish(session: Session, version: Version) -> None:
        work.finish(session, {**outcome_of(version), **chosen, "failed": len(report.failed)})

    recipe = best.point.recipe
    aliased = recipe.model_copy(update={"output": recipe.output.model_copy(update={"aliases": tuple(order.aliases)})})
    version = publish(
        aliased,
        registry=work.registry,
        settings=work.settings,
        progress=work.progress,
        name=order.name,
        paths=False,
        also=finish,
    )
    _remember(work, order, version, best)
    shutil.rmtree(folder, ignore_errors=True)


def fire(registry: Registry, order: SweepOrder) -> Fired:
    """What a schedule makes of it: the versions that are meant when its time comes."""
    return Fired(plain(pinned_order(registry, order)))


def check(registry: Registry, settings: Settings, order: SweepOrder) -> None:
    """Raise what is wrong with it now."""
    check_measured(registry, settings, pinned_order(registry, order).evaluate, [order.evaluate.metric])


def _points(order: SweepOrder) -> tuple[Point, ...]:
    grid = {path: given.values() if isinstance(given, Steps) else given for path, given in order.grid.items()}
    return expand(order.recipe, grid)


def _evaluation(work: Work, order: SweepOrder, points: tuple[Point, ...]) -> Evaluation:
    base = _base(work.registry, points)
    judge = order.evaluate
    if judge.evaluator is not None:
        return evaluator_named(judge.evaluator, work.settings).command(base, lambda: work.stopping)
    from graftwork.merge.evaluation.by_dataset import ByDataset  # and with it torch, which merging does without

    dataset = find_dataset(work.registry, str(judge.dataset))
    layout = layout_of(work.registry, dataset)

    def check(stage: str, done: int, total: int) -> None:
        work.check()

    return ByDataset(layout, dataset.digest, work.settings, judge.limit, base, check)


def _base(registry: Registry, points: tuple[Point, ...]) -> Path | None:
    """The folder of the model that the points belong on when they are adapters."""
    finder = Finder(registry, paths=False)
    for reference in points[0].recipe.references:
        version = finder.version(reference)
        if version is not None and version.kind is ArtifactKind.ADAPTER and version.base is not None:
            return materialise(registry, registry.catalog.by_digest(version.base))
    return None


def _remember(work: Work, order: SweepOrder, version: Version, best: Outcome) -> None:
    """Store the best point's numbers with its version, as if it had been evaluated by itself."""
    if order.evaluate.dataset is None:
        return
    dataset = find_dataset(work.registry, order.evaluate.dataset)
    limit, count = order.evaluate.limit, layout_of(work.registry, dataset).examples
    used = None if limit is None or limit >= count else limit
    metrics: Mapping[str, float] = best.result.metrics
    work.registry.evaluations.record(
        version,
        metrics,
        dataset=dataset.ref,
        dataset_digest=dataset.digest,
        parameters={"scheme": SCHEME, "limit": used},
        details={"limit": used, "sweep": dict(best.point.values)},
        job=work.claim.job.id,
    )


KIND = Kind(
    name="sweep",
    payload=SweepOrder,
    run=run,
    fire=fire,
    check=check,
    shares={"points": (0.0, 0.8), "measure": (0.8, 0.03), "merge": (0.83, 0.12), "import": (0.95, 0.05)},
    retried=(InputChanged, HubUnavailable),
)
