"""What can be measured on a dataset, and what a measurement says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import InvalidRequest
from graftwork.merge.sweep.sweep import Goal

METRICS: Mapping[str, Sequence[str]] = {
    "generation": ("exact_match",),
    "multiple_choice": ("multiple_choice", "multiple_choice_normalised"),
    "text": ("perplexity",),
    "classification": ("accuracy",),
}
"""The metrics of a dataset's task; all are measured together."""
MINIMISED = frozenset({"perplexity"})
SCHEME = 1
"""Grows when the same evaluation would give another number."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers by the names of their metrics, and what else there is to say: plain values."""

    metrics: Mapping[str, float]
    details: Mapping[str, Any]


def goal_of(metric: str) -> Goal:
    """Which way a metric of METRICS is better; more is better of any other."""
    return "minimise" if metric in MINIMISED else "maximise"


def check_metrics(task: str, wanted: Sequence[str], *, field: str = "metrics") -> Sequence[str]:
    """The metrics that are wanted of a dataset, all of its task by default. Raises InvalidRequest about `field`."""
    for metric in wanted:
        if metric not in METRICS[task]:
            reason = f"a dataset of the task {task} has no {metric!r}; it has {', '.join(METRICS[task])}"
            raise InvalidRequest(field=field, reason=reason)
    return wanted or METRICS[task]


def share(hits: Sequence[bool]) -> tuple[float, float]:
    """The share of hits, and its standard error (0 where there is only one)."""
    mean = sum(hits) / len(hits)
    return mean, math.sqrt(mean * (1 - mean) / max(1, len(hits) - 1))
