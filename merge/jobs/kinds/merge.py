"""Merging: a recipe in, a version out."""

from __future__ import annotations

import hashlib
from typing import Any, Self

from pydantic import model_validator
from sqlalchemy.orm import Session

from graftwork.errors import AliasConflict, HubUnavailable, InputChanged
from graftwork.merge.evaluation.gate import Gate
from graftwork.merge.evaluation.yardstick import check_measured, find_dataset
from graftwork.merge.jobs.kind import Fired, Kind, Order
from graftwork.merge.jobs.promotion import built, promote, settled
from graftwork.merge.jobs.selection import check_recipe, chosen, select, selection_of
from graftwork.merge.jobs.submit import outcome_of, submit
from graftwork.merge.jobs.work import Work
from graftwork.merge.method import find_method
from graftwork.merge.models.sources import HUB, Finder
from graftwork.merge.modifiers.lines import find_lines
from graftwork.merge.plan.binding import Binding
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import Recipe, digest, load_recipe
from graftwork.merge.run.publish import publish, target_of
from graftwork.registry.access.access import require
from graftwork.registry.access.grants import Scope
from graftwork.registry.jobs.jobs import Job
from graftwork.registry.refs import Name, check_alias
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import Also
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings


class MergeTemplate(Order):
    """What a schedule makes merges of: a recipe that may choose its models by a query, and what becomes of the result.

    With `promote`, that alias moves to the result, once the gate (if there is one) lets it through.
    """

    name: str
    recipe: dict[str, Any]
    promote: str | None = None
    gate: Gate | None = None

    @model_validator(mode="after")
    def _gates_a_promotion(self) -> Self:
        if self.gate is not None and self.promote is None:
            raise ValueError("a gate needs promote, the alias that it guards")
        if check_recipe(self.recipe).output.aliases and self.promote is not None:
            raise ValueError("recipe.output.aliases move as soon as it is built; give either them or promote")
        if self.promote is not None:
            check_alias(self.promote)
        return self


class MergeOrder(MergeTemplate):
    """A merge whose references are pinned, and the artifact that its result belongs to."""


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
    target = target_of(recipe, name)
    require(Scope.WRITE, target.namespace)
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
    """Merge and register, and end the job in the same transaction; that of a promotion is the alias's."""
    if order.promote is not None:
        recipe = load_recipe(order.recipe)
        version = built(work.registry, Name.parse(order.name), digest(recipe)) or _build(work, order, None)
        promote(work, version, order.promote, order.gate)
        return

    def finish(session: Session, version: Version) -> None:
        work.finish(session, outcome_of(version))

    _build(work, order, finish)


def fire(registry: Registry, template: MergeTemplate) -> Fired:
    """The merge of the versions that are meant now; skipped when the same recipe was built before.

    A result that is to be promoted and was not is judged again, unless `settled` knows the outcome.

    Raises InvalidRecipe, Forbidden, and what resolving raises.
    """
    target = Name.parse(template.name)
    require(Scope.WRITE, target.namespace)
    recipe = pin(load_recipe(chosen(registry, template.recipe)), Finder(registry, paths=False))
    gate = template.gate
    if gate is not None and gate.dataset is not None:
        gate = gate.model_copy(update={"dataset": find_dataset(registry, gate.dataset).ref})
    plain = recipe.model_dump(mode="json", exclude_defaults=True)
    order = MergeOrder(name=str(target), recipe=plain, promote=template.promote, gate=gate)
    same = built(registry, target, digest(recipe))
    skipped = None if same is None else f"the recipe {digest(recipe)[:12]} was built before, as {same.ref}"
    if same is not None and order.promote is not None:
        why = settled(registry, same, order.promote, gate)
        skipped = None if why is None else f"{skipped}; {why}"
    return Fired(order.model_dump(mode="json"), skipped)


def check(registry: Registry, settings: Settings, template: MergeTemplate) -> None:
    """Raise what is wrong with the recipe and its method, with what they name, and with the gate."""
    recipe = check_recipe(template.recipe)
    selection = selection_of(template.recipe)
    where = None if selection is None else ["models"] * len(recipe.models)
    Binding(find_method(recipe.merge_method), recipe, recipe.models, where=where)
    find_lines(recipe)
    if selection is None:
        pin(recipe, Finder(registry, paths=False))
    else:
        select(registry, selection.query)
    if template.gate is not None:
        check_measured(registry, settings, template.gate, [template.gate.metric])


def note(registry: Registry, template: MergeTemplate) -> str | None:
    """That the query selects nothing now."""
    selection = selection_of(template.recipe)
    return None if selection is None or select(registry, selection.query) else f"nothing matches {selection.asked} now"


def _build(work: Work, order: MergeOrder, also: Also | None) -> Version:
    return publish(
        load_recipe(order.recipe),
        registry=work.registry,
        settings=work.settings,
        progress=work.progress,
        name=order.name,
        paths=False,
        also=also,
        keep=lambda: work.stopping,
    )


def _references(recipe: Recipe) -> list[str]:
    return [reference for part in (*recipe.steps, recipe) for reference in part.references]


KIND = Kind(
    name="merge",
    payload=MergeOrder,
    run=run,
    shares={"measure": (0.0, 0.3), "merge": (0.3, 0.4), "import": (0.7, 0.1), "evaluate": (0.8, 0.2)},
    retried=(InputChanged, HubUnavailable, AliasConflict),
    template=MergeTemplate,
    fire=fire,
    check=check,
    note=note,
)
