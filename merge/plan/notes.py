"""What is no reason to refuse a merge, and what whoever asks for it would want to be told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from graftwork.merge.models.readers import Reader
from graftwork.merge.plan.tensor_plan import TensorPlan
from graftwork.merge.recipe.recipe import Recipe

EVERY = "*"
logger = logging.getLogger(__name__)
_told: ContextVar[set[str] | None] = ContextVar("told", default=None)


@contextmanager
def telling_once() -> Iterator[None]:
    """Within the block no note is told twice: a recipe of several documents is planned as a whole and in parts."""
    if _told.get() is not None:
        yield
        return
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def tell(recipe: Recipe, donor: Reader | None, tensors: Iterable[TensorPlan]) -> None:
    """Log what `notes` has to say of a merge."""
    told = _told.get()
    for note in notes(recipe, donor, tensors):
        if told is None or note not in told:
            logger.warning(note)
        if told is not None:
            told.add(note)


def notes(recipe: Recipe, donor: Reader | None, tensors: Iterable[TensorPlan]) -> Iterator[str]:
    """A sentence each on filters that no tensor meets, and on code and a configuration that the result will lack.

    donor: whose configuration the result takes, where it is read
    """
    filters = dict.fromkeys(part for setting in _settings(recipe) for part in _filters(setting))
    if filters:
        names = {operand.tensor.info.name for tensor in tensors for operand in tensor.operands}
        for idle in (part for part in filters if part != EVERY and not any(part in name for name in names)):
            yield f"The filter {idle!r} meets no tensor: none of their names contains it."
    if donor is None:
        return
    if donor.layout.config is None:
        yield f"The result has no config.json, for {donor.label} has none; transformers will not load it without."
        return
    classes = donor.layout.config.get("auto_map")
    modules = [str(name).partition(".")[0] for name in classes.values()] if isinstance(classes, Mapping) else []
    if files := ", ".join(f"{module}.py" for module in dict.fromkeys(modules) if "--" not in module):
        yield f"Code is not copied, and the config.json of {donor.label} names {files}: copy it to have it run."


def _settings(recipe: Recipe) -> Iterator[object]:
    """The parameters of a recipe, at every level."""
    yield from recipe.parameters.values()
    for section in recipe.slices:
        yield from section.parameters.values()
    for entry in (*recipe.models, *(source for section in recipe.slices for source in section.sources)):
        yield from entry.parameters.values()


def _filters(setting: object) -> Iterator[str]:
    """The filters of a value, and of the values that it chooses from."""
    for choice in setting if isinstance(setting, list) else [setting]:
        if isinstance(choice, Mapping):
            yield from [choice["filter"]] if choice.get("filter") else []
            yield from _filters(choice.get("value"))
