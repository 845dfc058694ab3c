"""From a recipe to a version in the registry, with its lineage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from graftwork import __version__
from graftwork.errors import ArtifactNotFound, InvalidRecipe
from graftwork.merge.models.sources import Finder, Origin
from graftwork.merge.output.workplace import workplace
from graftwork.merge.output.writer import check_room
from graftwork.merge.plan.adapter_plan import AdapterPlan
from graftwork.merge.plan.identity import identity
from graftwork.merge.plan.plan import SMALL_FILES, Plan, plan
from graftwork.merge.recipe.recipe import ModelEntry, Recipe, digest, load_recipe, references_of
from graftwork.merge.run.execute import Report
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.steps import carried_out
from graftwork.progress import Progress, silent
from graftwork.registry.access.access import doer
from graftwork.registry.formats.config import check_configs
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import Also, import_source
from graftwork.registry.versions.version import Kind, Parent, Relation, Version
from graftwork.settings import Settings


def publish(
    recipe: Recipe,
    *,
    registry: Registry,
    settings: Settings,
    progress: Progress = silent,
    name: str | None = None,
    paths: bool = True,
    also: Also | None = None,
    keep: Callable[[], bool] = lambda: False,
    parents: Sequence[Parent] = (),
    metadata: Mapping[str, object] | None = None,
) -> Version:
    """Merge, and register the result with its parents, its recipe and its aliases in one transaction.

    name:  the artifact the version belongs to, `ns/name`; by default the recipe's output.name
    paths: whether the recipe may name folders of this machine; such parents are not in the lineage
    also:  called in the transaction that registers the version
    keep:  asked after an error whether what was merged so far stays, for the same merge to go on later
    parents, metadata: more of them than the recipe gives

    A merge that was killed goes on, too. Raises what `plan`, `write_folder` and `import_source` raise; the registry is
    then as it was.
    """
    target = target_of(recipe, name)
    with registry.blobs.scratch() as scratch:
        aside = scratch / "merged"
        with carried_out(recipe, aside, settings=settings, registry=registry, progress=progress, paths=paths) as steps:
            planned = plan(recipe, settings=settings, registry=registry, paths=paths, steps=steps)
            kind = _check_takes(registry, target, planned)
            merge = identity(planned) if isinstance(planned, Plan) else None
            with workplace(scratch, merge, keep) as folder:
                out = folder / "merged"
                check_room(out, planned.output_bytes + SMALL_FILES)
                report = write_folder(planned, out, progress, keep)
                return import_source(
                    registry,
                    out,
                    target,
                    kind=kind,
                    base=_base_of(planned, registry),
                    aliases=recipe.output.aliases,
                    metadata=_metadata(planned, report) | dict(metadata or {}),
                    parents=[*_parents(planned, registry), *parents],
                    actor=doer("merge"),
                    also=also,
                    progress=progress,
                    move=True,
                )


def target_of(recipe: Recipe, name: str | None) -> Name:
    """The artifact a merge registers under, once the aliases of its recipe were found to be some.

    Raises InvalidRecipe when neither the caller nor the recipe names it, and InvalidName.
    """
    for alias in recipe.output.aliases:
        check_alias(alias)
    chosen = name or recipe.output.name
    if chosen is None:
        raise InvalidRecipe(where="output.name", reason="a merge into the registry needs a name, NAMESPACE/NAME")
    return Name.parse(chosen)


def made_before(planned: Plan | AdapterPlan, registry: Registry, target: Name) -> Version | None:
    """The version of an artifact that the same recipe made of the same versions, whatever it called them.

    None also where that cannot be told, as with models that are folders. Raises KindConflict, and UnsafeFile for
    configurations that the registry refuses.
    """
    _check_takes(registry, target, planned)
    origins = (*planned.models, *(() if planned.base is None else (planned.base,)))
    if any(origin.version is None for origin in origins):
        return None
    try:
        versions = registry.catalog.versions(target)
    except ArtifactNotFound:
        return None
    parents = {(parent.digest, parent.relation, parent.position) for parent in _parents(planned, registry)}
    wanted = _nameless(planned.recipe)
    for version in versions:
        merge = version.metadata.get("merge")
        edges = {(edge.parent, edge.relation, edge.position) for edge in registry.lineage.parents(version.digest)}
        if isinstance(merge, dict) and edges == parents and _nameless(load_recipe(merge["recipe"])) == wanted:
            return version
    return None


def _check_takes(registry: Registry, target: Name, planned: Plan | AdapterPlan) -> Kind:
    """The kind of the result, which the artifact and the registry were found to take, configurations and all."""
    kind = _kind_of(planned)
    registry.catalog.check_kind(target, kind)
    if isinstance(planned, Plan):
        for root in dict.fromkeys((planned.donor.root, planned.tokenizer.origin.root)):
            check_configs(root, tuple(path.name for path in sorted(root.glob("*config.json"))))
    return kind


def _kind_of(planned: Plan | AdapterPlan) -> Kind:
    return Kind.ADAPTER if isinstance(planned, AdapterPlan) else Kind.CHECKPOINT


def _nameless(recipe: Recipe) -> str:
    return digest(recipe.with_references(lambda reference: ""))


def _base_of(planned: Plan | AdapterPlan, registry: Registry) -> Ref | None:
    """The base of the result: the recipe's, or that base's own base, or the one that all models share.

    Adapters that are merged from one adapter belong on its base, other ones on whatever whole model the recipe names.
    """
    if planned.base is not None and planned.base.version is not None:
        version = planned.base.version
        adapts_it = isinstance(planned, AdapterPlan) and version.kind is not Kind.ADAPTER
        if version.kind is Kind.BASE or version.base is None or adapts_it:
            return Ref.parse(version.ref)
        return Ref.parse(registry.catalog.by_digest(version.base).ref)
    shared = {origin.version.base if origin.version is not None else None for origin in planned.models}
    digest_of_base = shared.pop() if len(shared) == 1 else None
    return Ref.parse(registry.catalog.by_digest(digest_of_base).ref) if digest_of_base is not None else None


def _inputs_of_steps(recipe: Recipe, registry: Registry) -> Sequence[Version]:
    """The versions that the recipe's earlier documents read."""
    return _versions([name for step in recipe.steps for name in step.references], registry)


def _versions(references: Iterable[str], registry: Registry) -> Sequence[Version]:
    """The versions of the registry that are named, adapters apart from what they are merged into."""
    finder = Finder(registry)
    parts = dict.fromkeys(part for reference in references for part in (reference, *reference.split("+")))
    return [version for part in parts if (version := finder.version(part)) is not None]


def _parents(planned: Plan | AdapterPlan, registry: Registry) -> Sequence[Parent]:
    """Every input that is a version of the registry, pinned by digest, in the order of the recipe.

    Adapters come after the models, then what only earlier documents read, and at last what only tokens are taken from.
    """
    recipe = planned.recipe
    parents = []
    if planned.base is not None and planned.base.version is not None:
        parents.append(Parent(planned.base.version.digest, Relation.MERGE_BASE, None, 0))
    for position, (origin, entry) in enumerate(zip(planned.models, planned.entries, strict=True), start=1):
        if origin.version is not None:
            weight = _weight(recipe, entry)
            parents.append(Parent(origin.version.digest, Relation.MERGE_INPUT, weight, position))
    others = [origin.adapter for origin in planned.models if origin.adapter is not None]
    inputs = [*(other.version for other in others), *_inputs_of_steps(recipe, registry)]
    for position, version in enumerate(inputs, len(planned.models) + 1):
        if version is not None:
            parents.append(Parent(version.digest, Relation.MERGE_INPUT, None, position))
    merged = {name for part in (recipe, *recipe.steps) for name in part.references}
    lent = [name for name in references_of(recipe) if name not in merged]
    for position, version in enumerate(_versions(lent, registry), len(planned.models) + 1 + len(inputs)):
        parents.append(Parent(version.digest, Relation.TOKENIZER, None, position))
    return parents


def _weight(recipe: Recipe, entry: ModelEntry) -> float | None:
    """The weight of a model, where it is one number for all tensors."""
    value = entry.parameters.get("weight", recipe.parameters.get("weight"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _metadata(planned: Plan | AdapterPlan, report: Report) -> dict[str, object]:
    recipe = planned.recipe
    measured = {} if report.lines_alpha is None else {"lines_alpha": report.lines_alpha}
    return {
        "merge": {
            "method": recipe.merge_method,
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
            "recipe_digest": digest(recipe),
            "seed": recipe.seed,
            "code_version": __version__,
            "sources": [_pinned(origin) for origin in planned.models],
            **measured,
        }
    }


def _pinned(origin: Origin) -> dict[str, str | None]:
    version = origin.version
    return {"model": origin.public_name, "digest": version.digest if version is not None else None}
