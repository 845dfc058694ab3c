"""Files of this machine that a recipe names for its method, beside the models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import InvalidRecipe
from graftwork.merge.method import Method
from graftwork.merge.recipe.recipe import Recipe


def local_files(recipe: Recipe, method: Method) -> Mapping[str, Path]:
    """Every file given for a parameter that takes one, by its place in the recipe."""
    places = {"parameters": recipe.parameters}
    places |= {f"slices[{position}].parameters": part.parameters for position, part in enumerate(recipe.slices)}
    return {
        f"{place}.{name}": Path(text).expanduser()
        for place, values in places.items()
        for name, value in values.items()
        if name in method.parameters and method.parameters[name].is_file
        for text in _texts(value)
    }


def refuse_local_files(recipe: Recipe, method: Method) -> None:
    """Raise InvalidRecipe if the recipe, which may not name files of this machine, does."""
    for where in local_files(recipe, method):
        raise InvalidRecipe(where=where, reason="a recipe from elsewhere cannot name a file of this machine")


def file_stamps(recipe: Recipe, method: Method) -> list[list[object]]:
    """What tells that a file is another one now: its path, size and time of change."""
    files = local_files(recipe, method).values()
    return [[str(path), status.st_size, status.st_mtime_ns] for path in files if (status := path.stat())]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item["value"] if isinstance(item, Mapping) else item)
