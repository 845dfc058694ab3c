"""Places in a recipe, as a sweep's grid names them: `parameters.lambda`, `modifiers[0].lines.beta`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import InvalidSweep

STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Place:
    """The keys and positions that lead to a value; `text` is how it was written."""

    text: str
    steps: tuple[str | int, ...]

    def upto(self, length: int) -> str:
        """The first steps as text."""
        joined = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps[:length])
        return joined.lstrip(".") or "the recipe"


def parse_path(text: str) -> Place:
    """Read a path; raises InvalidSweep for what is none."""
    steps: list[str | int] = []
    end = 0
    for match in STEP.finditer(text):
        if match.start() != end:
            break
        steps.append(match[1] if match[1] is not None else int(match[2]))
        end = match.end()
    if end != len(text) or not steps or isinstance(steps[0], int):
        reason = "expected keys separated by dots and positions in brackets, such as models[0].parameters.weight"
        raise InvalidSweep(where=f"grid.{text}", reason=reason)
    return Place(text, tuple(steps))


def replaced(recipe: Any, path: Place, value: Any) -> Any:
    """The recipe with `value` at `path`; a missing mapping is made, a missing entry of a list is refused.

    Raises InvalidSweep naming the path. The recipe that is given stays as it is.
    """
    return _replaced(recipe, path, 0, value)


def _replaced(node: Any, path: Place, depth: int, value: Any) -> Any:
    if depth == len(path.steps):
        return value
    step = path.steps[depth]
    if isinstance(step, int):
        return _in_list(node, path, depth, step, value)
    if not isinstance(node, Mapping) and node is not None:
        hint = f": name an entry of it, such as {path.upto(depth)}[0]" if isinstance(node, list) else ""
        reason = f"{path.upto(depth)} is {_shown(node)}, not a mapping{hint}"
        raise InvalidSweep(where=f"grid.{path.text}", reason=reason)
    mapping = dict(node or {})
    mapping[step] = _replaced(mapping.get(step), path, depth + 1, value)
    return mapping


def _in_list(node: Any, path: Place, depth: int, position: int, value: Any) -> Any:
    if not isinstance(node, Sequence) or isinstance(node, str):
        found = "is not in the recipe" if node is None else f"is {_shown(node)}, not a list"
        raise InvalidSweep(where=f"grid.{path.text}", reason=f"{path.upto(depth)} {found}")
    if position >= len(node):
        entries = f"{len(node)} {'entry' if len(node) == 1 else 'entries'}"
        raise InvalidSweep(where=f"grid.{path.text}", reason=f"{path.upto(depth)} has {entries}, counted from 0")
    items = list(node)
    items[position] = _replaced(items[position], path, depth + 1, value)
    return items


def _shown(node: Any) -> str:
    return "a mapping" if isinstance(node, Mapping) else "a list" if isinstance(node, list) else repr(node)
