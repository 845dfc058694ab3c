"""Putting jobs into the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.merge.jobs.kind import kind_named
from graftwork.registry.jobs import Job
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Version


def submit(
    registry: Registry,
    kind: str,
    payload: Mapping[str, Any],
    *,
    key: str | None = None,
    priority: int = 0,
    owner: str = "",
    max_attempts: int = 3,
    fired: tuple[int, float] | None = None,
) -> Job:
    """Queue a job, or return the queued or running one that has the same `key`.

    fired: the schedule that makes it and the time it is made for

    Raises InvalidRequest for a kind there is not and for a payload that the kind does not take.
    """
    order = kind_named(kind).parse(payload)
    return registry.jobs.enqueue(
        kind,
        order.model_dump(mode="json"),
        key=key,
        priority=priority,
        max_attempts=max_attempts,
        owner=owner,
        fired=fired,
    )


def outcome_of(version: Version) -> dict[str, str]:
    """The result of a job that made a version."""
    return {"name": str(version.name), "ref": version.ref, "digest": version.digest}
