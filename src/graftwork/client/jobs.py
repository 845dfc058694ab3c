"""Calls about jobs: merges, extractions, imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.api.schemas.jobs import JobDetail, JobOut
from graftwork.api.schemas.versions import VersionOut
from graftwork.client import artifacts
from graftwork.client.call import Call, call


def listing(*, state: str | None = None, kind: str | None = None, limit: int = 100) -> Call[list[JobOut]]:
    """Jobs, newest first; a client's `pages` goes through all of them."""
    return call("GET", "/jobs", list[JobOut], query={"state": state, "kind": kind, "limit": limit})


def get(job: str) -> Call[JobOut]:
    """One job."""
    return call("GET", f"/jobs/{job}", JobOut)


def detail(job: str) -> Call[JobDetail]:
    """One job, by the beginning of its id too, with the end of its log."""
    return call("GET", f"/jobs/{job}", JobDetail)


def cancel(job: str) -> Call[JobOut]:
    """Cancel a waiting job at once, ask a running one to stop, leave a finished one as it is."""
    return call("DELETE", f"/jobs/{job}", JobOut)


def submit(kind: str, payload: Mapping[str, Any], *, priority: int = 0) -> Call[JobOut]:
    """Queue a job that is not a merge."""
    return call("POST", "/jobs", JobOut, json={"kind": kind, "payload": dict(payload), "priority": priority})


def merge(recipe: str | Mapping[str, Any], *, name: str | None = None, priority: int = 0) -> Call[JobOut]:
    """Check a recipe, YAML or the same thing as a mapping, and queue it; `name` is its result's, `ns/name`."""
    given = recipe if isinstance(recipe, str) else dict(recipe)
    return call("POST", "/merges", JobOut, json={"recipe": given, "name": name, "priority": priority})


def sweep(order: Mapping[str, Any]) -> Call[JobOut]:
    """Check a sweep and queue it: its `name`, `recipe`, `grid`, `evaluate` and `aliases`, as the API has them."""
    return call("POST", "/sweeps", JobOut, json=dict(order))


def found_there(job: JobOut) -> bool:
    """Whether the version that a job made was there before."""
    return bool((job.result or {}).get("already_there"))


def made(job: JobOut) -> Call[VersionOut]:
    """The version that a job made which has succeeded: a merge, an extraction, an import."""
    return artifacts.version(str((job.result or {})["ref"]))
