"""Recipes whose models are chosen when their time comes: `models: {query: {tag: nightly, alias: prod}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graftwork.errors import InvalidRecipe
from graftwork.merge.recipe.problem import first_problem, reason_of
from graftwork.merge.recipe.recipe import Recipe, load_recipe
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions.marks import Mark
from graftwork.registry.versions.version import Kind, Version


class Query(BaseModel):
    """Which artifacts: all that have the tag, are of the kind and, where given, on the base and in the namespace."""

    model_config = ConfigDict(extra="forbid")

    tag: str = Field(description="a tag of the artifact")
    alias: str | None = Field(default=None, description="which version; the newest if absent")
    kind: Kind = Field(default=Kind.ADAPTER, description="what they are")
    base: str | None = Field(default=None, description="the base that they belong on")
    namespace: str | None = Field(default=None, description="where to look; everywhere if absent")


class Selection(BaseModel):
    """The `models` of a recipe that chooses them; every one gets the same parameters."""

    model_config = ConfigDict(extra="forbid")

    query: Query
    parameters: dict[str, Any] = {}

    @property
    def asked(self) -> str:
        """The query, as messages say it."""
        return ", ".join(f"{key} {value}" for key, value in self.query.model_dump(exclude_none=True).items())


def selection_of(recipe: Mapping[str, Any]) -> Selection | None:
    """What a recipe chooses its models by; None for one that names them. Raises InvalidRecipe."""
    models = recipe.get("models")
    if not isinstance(models, Mapping):
        return None
    try:
        return Selection.model_validate(models)
    except ValidationError as error:
        problem = first_problem(error)
        where = ".".join(["models", *map(str, problem["loc"])])
        raise InvalidRecipe(where=where, reason=reason_of(problem, Selection)) from None


def check_recipe(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe, with names made up for what its query will select. Raises InvalidRecipe."""
    selection = selection_of(recipe)
    if selection is not None:
        recipe = {**recipe, "models": [{"model": "any/model", "parameters": selection.parameters}] * 2}
    return load_recipe(recipe)


def chosen(registry: Registry, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe with the models that its query selects now, pinned, in the order of their names.

    What is quarantined or lacks the alias is not selected, nor is what whom this is done for may not see. Raises
    InvalidRecipe when nothing is selected.
    """
    selection = selection_of(recipe)
    if selection is None:
        return recipe
    found = select(registry, selection.query)
    if not found:
        raise InvalidRecipe(where="models.query", reason=f"nothing in the registry matches {selection.asked}")
    parameters = {"parameters": selection.parameters} if selection.parameters else {}
    return {**recipe, "models": [{"model": version.ref, **parameters} for version in found]}


def select(registry: Registry, query: Query) -> list[Version]:
    """The versions that a query means now, in the order of their names."""
    base = None if query.base is None else registry.catalog.resolve(query.base).digest
    found = []
    for name in registry.tags.artifacts(query.tag):
        if query.namespace is not None and name.namespace.lower() != query.namespace.lower():
            continue
        version = _version(registry, name, query.alias)
        if version is None or version.kind is not query.kind or (base is not None and version.base != base):
            continue
        if not any(mark.mark is Mark.QUARANTINED for mark in registry.marks.of(version)):
            found.append(version)
    return found


def _version(registry: Registry, name: Name, alias: str | None) -> Version | None:
    if alias is None:
        return registry.catalog.resolve(Ref(name))
    entry = registry.aliases.get(name).get(alias)
    return None if entry is None else registry.catalog.resolve(Ref(name, entry.digest))
