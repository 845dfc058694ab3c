"""Calls about how well versions do."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.api.schemas.evaluations import EvaluationOut
from graftwork.api.schemas.jobs import JobOut
from graftwork.client.call import Call, call, version_path


def submit(
    ref: str,
    *,
    dataset: str | None = None,
    evaluator: str | None = None,
    metrics: Sequence[str] = (),
    limit: int | None = None,
    priority: int = 0,
) -> Call[JobOut]:
    """Queue the evaluation of a version by a dataset of the registry, or by a command that the operator configured.

    metrics: those that are wanted; all there are if empty
    limit:   use the first examples of the dataset only
    """
    body = {
        "model": ref,
        "dataset": dataset,
        "evaluator": evaluator,
        "metrics": list(metrics),
        "limit": limit,
        "priority": priority,
    }
    return call("POST", "/evaluations", JobOut, json=body)


def listing(ref: str) -> Call[list[EvaluationOut]]:
    """What is known of a version, newest first."""
    return call("GET", version_path(ref, "evaluations"), list[EvaluationOut])
