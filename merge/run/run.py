"""Merge: from a recipe to a folder, or to a version in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, overload

from graftwork.errors import InvalidRecipe
from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.steps import carried_out
from graftwork.progress import Progress, silent
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry
    from graftwork.registry.versions.version import Version


@overload
def merge(
    recipe: Recipe,
    *,
    out: Path,
    registry: Registry | None = None,
    settings: Settings,
    progress: Progress = silent,
    paths: bool = True,
) -> Path: ...


@overload
def merge(
    recipe: Recipe,
    *,
    out: None = None,
    registry: Registry,
    settings: Settings,
    progress: Progress = silent,
    name: str | None = None,
    paths: bool = True,
) -> Version: ...


def merge(
    recipe: Recipe,
    *,
    out: Path | None = None,
    registry: Registry | None = None,
    settings: Settings,
    progress: Progress = silent,
    name: str | None = None,
    paths: bool = True,
) -> Path | Version:
    """Carry out a recipe: into the folder `out`, or as a new version in the registry when there is no `out`.

    name:  the artifact the version belongs to, `ns/name`; by default the recipe's output.name
    paths: whether the recipe may name folders of this machine

    The same recipe and inputs give the same bytes and so the same version. Raises what `plan` and `write_folder` raise;
    nothing is left behind then, neither in the folder's place nor in the registry.
    """
    if out is not None:
        with carried_out(recipe, out, settings=settings, registry=registry, progress=progress, paths=paths) as steps:
            planned = plan(recipe, settings=settings, registry=registry, out=out, paths=paths, steps=steps)
            write_folder(planned, out, progress)
        return out
    if registry is None:
        raise InvalidRecipe(where="output", reason="without a folder to write to, a registry is needed")
    from graftwork.merge.run.publish import publish

    return publish(recipe, registry=registry, settings=settings, progress=progress, name=name, paths=paths)
