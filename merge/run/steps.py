"""Recipes of several documents: earlier results become models of later merges."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import GraftworkError, InvalidRecipe, OutputBusy
from graftwork.merge.plan.identity import identity
from graftwork.merge.plan.notes import telling_once
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.run.folder.companions import write_companions
from graftwork.merge.run.folder.folder import write_folder
from graftwork.progress import Progress
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry

FOLDER = ".steps"
NOTE = ".digest"
"""Beside a step that was finished, what tells its merge from another."""


@contextmanager
def rehearsed(
    recipe: Recipe, *, settings: Settings, registry: Registry | None, paths: bool
) -> Iterator[Mapping[str, Path]]:
    """Folders like those of the results of a recipe's steps, whose weights are holes: enough to plan what follows.

    Raises what `plan` raises for a step.
    """
    with tempfile.TemporaryDirectory(prefix="graftwork-steps-") as root:
        found: dict[str, Path] = {}
        for step in recipe.steps:
            planned = _plan(step, settings, registry, paths, found)
            folder = Path(root) / str(step.name)
            folder.mkdir()
            _write_holes(planned, folder)
            planned.close()
            found[str(step.name)] = folder
        yield found


@contextmanager
def carried_out(
    recipe: Recipe, out: Path, *, settings: Settings, registry: Registry | None, progress: Progress, paths: bool = True
) -> Iterator[Mapping[str, Path]]:
    """The folders of the results of a recipe's steps, which are beside `out` until the block ends well.

    Everything is planned first. A step that was finished by a run that was interrupted or killed is not done again,
    unless its recipe or an input changed since; an error leaves nothing. Raises what `plan` and `write_folder` raise.
    """
    if not recipe.steps:
        yield {}
        return
    with telling_once():
        plan(recipe, settings=settings, registry=registry, out=out, paths=paths).close()
        root = out.absolute().with_name(out.name + FOLDER)
        root.mkdir(parents=True, exist_ok=True)
        try:
            yield _carry_out(recipe, root, settings, registry, progress, paths)
        except OutputBusy:
            raise
        except GraftworkError:
            shutil.rmtree(root, ignore_errors=True)
            raise
        shutil.rmtree(root, ignore_errors=True)


def _carry_out(
    recipe: Recipe, root: Path, settings: Settings, registry: Registry | None, progress: Progress, paths: bool
) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for step in recipe.steps:
        planned = _plan(step, settings, registry, paths, found)
        folder = root / str(step.name)
        note = root / (folder.name + NOTE)
        mark = identity(planned)
        if folder.is_dir() and note.is_file() and note.read_text() == mark:
            planned.close()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            write_folder(planned, folder, progress)
            note.write_text(mark)
        found[folder.name] = folder
    return found


def _plan(step: Recipe, settings: Settings, registry: Registry | None, paths: bool, found: Mapping[str, Path]) -> Plan:
    planned = plan(step, settings=settings, registry=registry, paths=paths, steps=found)
    if not isinstance(planned, Plan):
        planned.close()
        reason = "a step merges whole models; merge the adapters by a recipe of their own"
        raise InvalidRecipe(where=f"name: {step.name}", reason=reason)
    return planned


def _write_holes(planned: Plan, folder: Path) -> None:
    for shard in planned.shards:
        start, header = shard.start()
        with (folder / shard.file).open("wb") as file:
            file.write(start)
            os.truncate(file.fileno(), header.size)
    output = _Folder(folder)
    if len(planned.shards) > 1:
        weight_map = {name: shard.file for shard in planned.shards for name, _, _ in shard.tensors}
        output.write_file(
            "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
        )
    write_companions(planned, output)


class _Folder:
    """What companions are written to."""

    def __init__(self, folder: Path) -> None:
        self.partial = folder

    def write_file(self, name: str, content: bytes) -> None:
        """Write one small file."""
        (self.partial / name).write_bytes(content)
