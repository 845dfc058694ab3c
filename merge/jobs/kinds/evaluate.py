"""Evaluating a version: on a dataset of the registry, or by a command of the operator's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from graftwork.errors import HubUnavailable, InputChanged
from graftwork.merge.evaluation.yardstick import Yardstick, check_measured, find_dataset
from graftwork.merge.jobs.kind import Fired, Kind
from graftwork.merge.jobs.submit import submit
from graftwork.merge.jobs.work import Work
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import Scope
from graftwork.registry.jobs.jobs import Job
from graftwork.registry.registry import Registry
from graftwork.settings import Settings


class EvaluateOrder(Yardstick):
    """A version, what it is judged by, and which metrics are wanted (none: all there are)."""

    model: str = Field(description="a reference to a version", examples=["acme/support@prod"])
    metrics: list[str] = Field(default=[], description="the metrics that are wanted; all there are if empty")


def submit_evaluation(
    registry: Registry, settings: Settings, order: EvaluateOrder, *, priority: int = 0, owner: str = ""
) -> Job:
    """Queue an evaluation of the versions that are meant now, or return the queued or running job that is the same.

    Raises InvalidRequest for metrics, datasets and evaluators that there are not, Forbidden, and what resolving does.
    """
    pinned = pin(registry, order)
    check_measured(registry, settings, pinned, pinned.metrics)
    wanted = "\n".join((owner, pinned.model_dump_json()))
    key = f"evaluate:{hashlib.sha256(wanted.encode()).hexdigest()}"
    return submit(registry, "evaluate", pinned.model_dump(mode="json"), key=key, priority=priority, owner=owner)


def pin(registry: Registry, order: EvaluateOrder) -> EvaluateOrder:
    """The order with its references pinned. Raises Forbidden where the results cannot be written."""
    version = registry.catalog.resolve(order.model)
    registry.marks.require_usable(version)
    require(Scope.WRITE, version.name.namespace)
    dataset = None if order.dataset is None else find_dataset(registry, order.dataset).ref
    return order.model_copy(update={"model": version.ref, "dataset": dataset})


def run(work: Work, order: EvaluateOrder) -> Mapping[str, Any]:
    """Evaluate; what is known already is found and not computed."""
    from graftwork.merge.evaluation.by_version import evaluate  # and with it torch, which queueing does without

    version = work.registry.catalog.resolve(order.model)
    found = evaluate(
        work.registry,
        work.settings,
        version,
        order,
        order.metrics,
        job=work.claim.job.id,
        progress=work.progress,
        stopped=lambda: work.stopping,
    )
    return {
        "ref": version.ref,
        "digest": version.digest,
        "by": order.label,
        "found": found.known,
        "metrics": dict(found.metrics),
    }


def fire(registry: Registry, order: EvaluateOrder) -> Fired:
    """What a schedule makes of it: the versions that are meant when its time comes."""
    return Fired(pin(registry, order).model_dump(mode="json"))


def check(registry: Registry, settings: Settings, order: EvaluateOrder) -> None:
    """Raise what is wrong with it now."""
    check_measured(registry, settings, pin(registry, order), order.metrics)


KIND = Kind(
    name="evaluate",
    payload=EvaluateOrder,
    run=run,
    fire=fire,
    check=check,
    shares={"evaluate": (0.0, 1.0)},
    retried=(InputChanged, HubUnavailable),
)
