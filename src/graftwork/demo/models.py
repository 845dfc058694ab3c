"""From nothing to models in a registry: the family trained or found again, registered, and merged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from graftwork import __version__
from graftwork.demo.recipes import BASE, NAMESPACE, write_recipes
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.progress import Progress
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings
from graftwork.testing.family import Family, FamilyPlan, family_in, train_family

STAMP = "family.json"


@dataclass(frozen=True, slots=True)
class RegisteredFamily:
    """The versions of a family; fine-tunes and adapters by skill."""

    base: Version
    fine_tunes: dict[str, Version]
    adapters: dict[str, Version]


def train_or_reuse(folder: Path, plan: FamilyPlan, *, fresh: bool, progress: Progress) -> tuple[Family, bool]:
    """The family of `plan` in `folder`, and whether it was there: trained in full by this version of Graftwork."""
    stamp = {"graftwork": __version__, "plan": repr(plan)}
    if not fresh and _read_stamp(folder) == stamp:
        return family_in(folder, plan), True
    (folder / STAMP).unlink(missing_ok=True)
    family = train_family(folder, plan, progress)
    (folder / STAMP).write_text(json.dumps(stamp, indent=2), encoding="utf-8")
    return family, False


def register(registry: Registry, family: Family, progress: Progress) -> RegisteredFamily:
    """Register the whole family; content that is there already stays the version it is."""
    total = 1 + len(family.fine_tunes) + len(family.adapters)
    base = import_source(registry, str(family.base), Name.parse(BASE))
    progress("register", 1, total)
    registered = RegisteredFamily(base, {}, {})
    for skill, folder in family.fine_tunes.items():
        registered.fine_tunes[skill] = _import(registry, folder, f"{NAMESPACE}/{skill}-ft", base)
        progress("register", 1 + len(registered.fine_tunes), total)
    for skill, folder in family.adapters.items():
        registered.adapters[skill] = _import(registry, folder, f"{NAMESPACE}/{skill}", base)
        progress("register", 1 + len(registered.fine_tunes) + len(registered.adapters), total)
    return registered


def merge_all(
    registry: Registry, settings: Settings, family: RegisteredFamily, folder: Path, progress: Progress
) -> dict[str, Version]:
    """Write every recipe into `folder` and carry it out; the results by the name of the merge."""
    merged = {}
    fine_tunes = [version.ref for version in family.fine_tunes.values()]
    adapters = [version.ref for version in family.adapters.values()]
    recipes = write_recipes(folder, family.base.ref, fine_tunes, adapters)
    for done, (name, path) in enumerate(recipes.items(), start=1):
        merged[name] = merge(load_recipe(path), registry=registry, settings=settings)
        progress("merge", done, len(recipes))
    return merged


def _import(registry: Registry, folder: Path, name: str, base: Version) -> Version:
    return import_source(registry, str(folder), Name.parse(name), base=Ref.parse(base.ref))


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
