"""The YAML of recipes before it is checked: its documents, and mergekit's `modules` of a model that has one module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from graftwork.errors import InvalidRecipe

ONLY_MODULE = "default"
"""What mergekit calls the module of a model that has no others."""


MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
"""Of a document, with what its aliases repeat: nine lines of YAML can stand for billions."""


class _Loader(yaml.SafeLoader):
    """Of a key that is given twice YAML's loader would keep the last value, and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in seen:
                    both = "" if seen[name] == line else f"{seen[name]} and "
                    raise ValueError(f"the key {key.value!r} is given twice, in line {both}{line}")
                seen[name] = line
        return node


def load_yaml(text: str) -> list[Any]:
    """The documents of a YAML text.

    Raises ValueError, which says why, for what is no YAML or too much of it, and for a key that is given twice.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters; at most {MAX_CHARACTERS:,} are accepted")
    try:
        text.encode()
        documents = list(yaml.load_all(text, _Loader))
        for document in documents:
            if _values(document, {}, set()) > MAX_VALUES:
                raise ValueError(f"with its aliases written out it has over {MAX_VALUES:,} values")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, TypeError, OverflowError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return documents


def _values(value: Any, counted: dict[int, int], open_: set[int]) -> int:
    """How many values `value` has with its aliases written out; more than is accepted where it holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in open_:
        return MAX_VALUES + 1
    if id(value) not in counted:
        open_.add(id(value))
        items = value.values() if isinstance(value, dict) else value
        counted[id(value)] = 1 + sum(_values(item, counted, open_) for item in items)
        open_.remove(id(value))
    return counted[id(value)]


def parse_documents(text: str) -> list[Any]:
    """The documents of a YAML text; one that is empty where there are none. Raises InvalidRecipe."""
    try:
        documents = load_yaml(text)
    except ValueError as error:
        raise InvalidRecipe(where="the YAML", reason=str(error)) from None
    return [document for document in documents if document is not None] or [None]


def flatten_modules(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with its one module's models, slices and parameters at the top; the module's parameters come first.

    Raises InvalidRecipe for the modules of a model that has several, such as a language and a vision tower.
    """
    flat = dict(raw)
    modules = flat.pop("modules", None)
    if modules is None:
        return flat
    if not isinstance(modules, Mapping) or list(modules) != [ONLY_MODULE] or not isinstance(modules[ONLY_MODULE], dict):
        reason = f"only the module {ONLY_MODULE!r} is supported: models of several modules are not"
        raise InvalidRecipe(where="modules", reason=reason)
    module = dict(modules[ONLY_MODULE])
    parameters = module.pop("parameters", None) or {}
    above = flat.get("parameters") or {}
    for what in (parameters, above):
        if not isinstance(what, Mapping):
            raise InvalidRecipe(where="parameters", reason="expected a mapping")
    for key, value in module.items():
        if key not in ("models", "slices") or flat.get(key):
            raise InvalidRecipe(where=f"modules.{ONLY_MODULE}.{key}", reason="expected models or slices, given once")
        flat[key] = value
    above = dict(above)
    for name, value in parameters.items():
        above[name] = _before(value, above[name]) if name in above else value
    flat["parameters"] = above
    return flat


def _before(first: Any, second: Any) -> Any:
    """A setting that is `first` where its filters apply, and `second` elsewhere."""
    conditions = _conditions(first)
    return first if conditions is None else [*conditions, *(_conditions(second) or [{"value": second}])]


def _conditions(value: Any) -> list[Any] | None:
    values = value if isinstance(value, list) else [value]
    return list(values) if values and all(isinstance(item, Mapping) for item in values) else None
