"""Merging: a recipe in, a version out."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from graftwork.errors import HubUnavailable, InputChanged
from graftwork.merge.jobs.kind import Kind
from graftwork.merge.jobs.submit import outcome_of, submit
from graftwork.merge.jobs.work import Work
from graftwork.merge.models.sources import HUB, Finder
from graftwork.merge.plan import plan
from graftwork.merge.publish import artifact_name, publish
from graftwork.merge.recipe import Recipe, digest, load_recipe
from graftwork.registry.jobs import Job
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Version
from graftwork.settings import Settings


class MergeOrder(BaseModel):
    """A recipe whose references are pinned, and the artifact that its result belongs to."""

    name: str
    recipe: dict[str, Any]


def submit_merge(
    registry: Registry,
    recipe: Recipe,
    *,
    settings: Settings,
    name: str | None = None,
    priority: int = 0,
    owner: str = "",
    max_attempts: int = 3,
) -> Job:
    """Queue a merge, or return the queued or running job that makes the same thing.

    References are pinned to the versions they mean now, and a recipe over versions is planned, so what is wrong with
    it is raised here, as `plan` does; what is on the Hub is fetched by the worker. Folders are not accepted as models.
    """
    target = artifact_name(recipe, name)
    pinned = pin(recipe, Finder(registry, paths=False))
    if not any(reference.startswith(HUB) for reference in _references(pinned)):
        plan(pinned, settings=settings, registry=registry, paths=False).close()
    order = MergeOrder(name=str(target), recipe=pinned.model_dump(mode="json", exclude_defaults=True))
    wanted = "\n".join((target.key, *recipe.output.aliases, digest(pinned)))
    key = f"merge:{hashlib.sha256(wanted.encode()).hexdigest()}"
    return submit(
        registry, "merge", order.model_dump(), key=key, priority=priority, owner=owner, max_attempts=max_attempts
    )


def pin(recipe: Recipe, finder: Finder) -> Recipe:
    """The recipe with every reference to the registry pinned to the version it means now."""

    def pinned(reference: str) -> str:
        version = finder.version(reference)
        if version is None and "+" in reference:
            model, _, adapter = reference.rpartition("+")
            return f"{pinned(model)}+{pinned(adapter)}"
        return version.ref if version is not None else reference

    return recipe.with_references(pinned)


def run(work: Work, order: MergeOrder) -> None:
    """Merge and register, and end the job in the same transaction."""

    def finish(session: Session, version: Version) -> None:
        work.finish(session, outcome_of(version))

    publish(
        load_recipe(order.recipe),
        registry=work.registry,
        settings=work.settings,
        progress=work.progress,
        name=order.name,
        paths=False,
        also=finish,
        keep=lambda: work.stopping,
    )


def _references(recipe: Recipe) -> list[str]:
    return [reference for part in (*recipe.steps, recipe) for reference in part.references]


KIND = Kind(
    name="merge",
    payload=MergeOrder,
    run=run,
    shares={"measure": (0.0, 0.3), "merge": (0.3, 0.6), "import": (0.9, 0.1)},
    retried=(InputChanged, HubUnavailable),
)
