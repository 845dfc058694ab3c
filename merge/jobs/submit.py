"""Putting jobs into the queue."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from graftwork.merge.jobs.kind import kind_named
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import Scope
from graftwork.registry.jobs.jobs import Job
from graftwork.registry.refs import Name, check_alias
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import Version


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
    """Queue a job, or return the queued or running one of the same owner that has the same `key`.

    fired: the schedule that makes it and the time it is made for

    Raises InvalidRequest for a kind there is not and for a payload that the kind does not take, and what
    `require_target` raises.
    """
    order = kind_named(kind).parse(payload)
    require_target(order)
    return registry.jobs.enqueue(
        kind,
        order.model_dump(mode="json"),
        key=None if key is None else _own(key, owner),
        priority=priority,
        max_attempts=max_attempts,
        owner=owner,
        fired=fired,
    )


def require_target(order: object) -> None:
    """Raise InvalidName, and Forbidden, where the `name` or the `aliases` of what is to be made are not possible."""
    if isinstance(name := getattr(order, "name", None), str):
        require(Scope.WRITE, Name.parse(name).namespace)
    for alias in getattr(order, "aliases", ()):
        check_alias(alias)


def _own(key: str, owner: str) -> str:
    """Nobody is answered with a job of others, who may ask for the same."""
    return hashlib.sha256(f"{owner}\n{key}".encode()).hexdigest() if owner else key


def outcome_of(version: Version) -> dict[str, Any]:
    """The result of a job that made a version, or found that it was there."""
    found = {} if version.is_new else {"already_there": True}
    return {"name": str(version.name), "ref": version.ref, "digest": version.digest, **found}
