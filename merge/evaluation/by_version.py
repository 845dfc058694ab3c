"""Evaluation of a version of the registry: found when it was made before, made and stored when not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import InvalidRequest
from graftwork.merge.evaluation.by_dataset import measure
from graftwork.merge.evaluation.evaluator import evaluator_named
from graftwork.merge.evaluation.metric import SCHEME, check_metrics
from graftwork.merge.evaluation.subject import open_version
from graftwork.merge.evaluation.yardstick import Yardstick, find_dataset, layout_of
from graftwork.progress import Progress, silent
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind, Version
from graftwork.settings import Settings


@dataclass(frozen=True, slots=True)
class Found:
    """Numbers by metric. `known` when they were there already."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]
    known: bool


def evaluate(
    registry: Registry,
    settings: Settings,
    version: Version,
    yardstick: Yardstick,
    metrics: Sequence[str] = (),
    *,
    job: str | None = None,
    progress: Progress = silent,
    stopped: Callable[[], bool] = lambda: False,
) -> Found:
    """The metrics of a version (all that the yardstick has, by default); new ones are stored with the version.

    job:     what is noted as having found them out
    stopped: asked while a command runs whether it is to be killed

    Raises InvalidRequest, OperationFailed, Cancelled, and what finding and loading raise.
    """
    if yardstick.dataset is not None:
        dataset = find_dataset(registry, yardstick.dataset)
        return _by_dataset(registry, settings, version, dataset, yardstick, metrics, job, progress)
    return _by_command(registry, settings, version, yardstick, metrics, job, stopped)


def _by_dataset(
    registry: Registry,
    settings: Settings,
    version: Version,
    dataset: Version,
    yardstick: Yardstick,
    metrics: Sequence[str],
    job: str | None,
    progress: Progress,
) -> Found:
    layout, limit = layout_of(registry, dataset), yardstick.limit
    wanted = check_metrics(layout.config.task, metrics, field=yardstick.field)
    used = None if limit is None or limit >= layout.examples else limit
    parameters = {"scheme": SCHEME, "limit": used}
    known = registry.evaluations.find(version.digest, dataset.digest, wanted, parameters)
    if set(known) == set(wanted):
        details = next(iter(known.values())).details
        return Found({metric: known[metric].value for metric in wanted}, details, known=True)
    with open_version(registry, settings, version) as subject:
        found = measure(subject, layout, limit=used, progress=progress)
    details = {**found.details, "limit": used}
    registry.evaluations.record(
        version,
        found.metrics,
        dataset=dataset.ref,
        dataset_digest=dataset.digest,
        parameters=parameters,
        details=details,
        job=job,
    )
    return Found({metric: found.metrics[metric] for metric in wanted}, details, known=False)


def _by_command(
    registry: Registry,
    settings: Settings,
    version: Version,
    yardstick: Yardstick,
    metrics: Sequence[str],
    job: str | None,
    stopped: Callable[[], bool],
) -> Found:
    name, base = str(yardstick.evaluator), None
    if version.kind is Kind.ADAPTER and version.base is not None:
        base = materialise(registry, registry.catalog.by_digest(version.base))
    configured = evaluator_named(name, settings)
    parameters = {"evaluator": name, **configured.command(None).identity}
    known = {
        entry.metric: entry
        for entry in reversed(registry.evaluations.of([version.digest]))
        if entry.dataset_digest is None and entry.details.get("parameters") == parameters
    }
    if known and set(metrics) <= set(known):
        values = {metric: entry.value for metric, entry in known.items() if not metrics or metric in metrics}
        return Found(values, {"parameters": parameters}, known=True)
    registry.marks.require_usable(version)
    with tempfile.TemporaryDirectory() as folder:
        command = configured.command(base, stopped)
        found = command.measure(materialise(registry, version), Path(folder) / "log.txt")
    if missing := [metric for metric in metrics if metric not in found]:
        reason = f"the evaluator {name} gave no {missing[0]!r}; it gave {', '.join(found) or 'no numbers'}"
        raise InvalidRequest(field=yardstick.field, reason=reason)
    details = {"parameters": parameters}
    registry.evaluations.record(version, found, dataset=name, parameters=parameters, details=details, job=job)
    return Found({metric: found[metric] for metric in metrics or found}, details, known=False)
