"""Rebuilding: what was made of a version is made again without it, or with another one in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from graftwork.errors import HubUnavailable, InputChanged, InvalidRequest
from graftwork.merge.jobs.kind import Kind, Order
from graftwork.merge.jobs.submit import submit
from graftwork.merge.jobs.work import Work
from graftwork.merge.rebuild.carry_out import Outcome, carry_out
from graftwork.merge.rebuild.plan import Rebuild, plan_rebuild
from graftwork.registry.jobs.jobs import Job
from graftwork.registry.registry import Registry
from graftwork.settings import Settings


class RebuildOrder(Order):
    """The version that is not to be used any more, and what takes its place; nothing does where that is absent."""

    ref: str
    replace_by: str | None = None
    move_aliases: bool = False


def find_rebuild(registry: Registry, settings: Settings, ref: str, replace_by: str | None = None) -> Rebuild:
    """The plan for two references; the first may be of a version that was withdrawn.

    Raises what resolving them and `plan_rebuild` raise.
    """
    replacement = None if replace_by is None else registry.catalog.resolve(replace_by)
    return plan_rebuild(registry, settings, registry.lineage.find(ref), replacement)


def submit_rebuild(
    registry: Registry,
    order: RebuildOrder,
    *,
    settings: Settings,
    priority: int = 0,
    owner: str = "",
) -> Job:
    """Queue a rebuild, or return the queued or running job that makes the same one.

    Raises InvalidRequest when nothing can be rebuilt, and what `find_rebuild` raises.
    """
    planned = find_rebuild(registry, settings, order.ref, order.replace_by)
    root, replacement = planned.root, planned.replacement
    require_something(planned)
    pinned = RebuildOrder(
        ref=root.ref,
        replace_by=None if replacement is None else replacement.ref,
        move_aliases=order.move_aliases,
    )
    wanted = "\n".join((owner, pinned.model_dump_json()))
    key = f"rebuild:{hashlib.sha256(wanted.encode()).hexdigest()}"
    return submit(registry, "rebuild", pinned.model_dump(), key=key, priority=priority, owner=owner)


def require_something(planned: Rebuild) -> None:
    """Raise InvalidRequest when nothing can be rebuilt, with the reason."""
    if any(step.is_rebuilt for step in planned.steps):
        return
    if not planned.steps:
        raise InvalidRequest(field="ref", reason=f"nothing was made of {planned.root.ref}")
    first = planned.steps[0]
    named = next((place.ref for place in first.places if place.is_visible), first.digest[:12])
    reason = f"nothing that was made of {planned.root.ref} can be rebuilt; of {named}, {first.reason}"
    raise InvalidRequest(field="ref", reason=reason)


def run(work: Work, order: RebuildOrder) -> dict[str, Any]:
    """Make again what can be; what cannot is in the result with the reason, and in the log."""
    planned = find_rebuild(work.registry, work.settings, order.ref, order.replace_by)
    outcomes = carry_out(
        planned,
        registry=work.registry,
        settings=work.settings,
        move_aliases=order.move_aliases,
        actor=work.claim.job.owner or "rebuild",
        progress=work.progress,
        keep=lambda: work.stopping,
    )
    for outcome in outcomes:
        if outcome.reason is not None:
            refs = ", ".join(outcome.step.as_json()["refs"]) or outcome.step.digest[:12]
            work.log(f"{refs} was not rebuilt: {outcome.reason}")
    return result_of(outcomes)


def result_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The result of the job."""
    return {
        "rebuilt": sum(bool(outcome.versions) for outcome in outcomes),
        "not_rebuilt": sum(outcome.reason is not None for outcome in outcomes),
        "steps": [outcome.as_json() for outcome in outcomes],
    }


KIND = Kind(name="rebuild", payload=RebuildOrder, run=run, retried=(InputChanged, HubUnavailable))
