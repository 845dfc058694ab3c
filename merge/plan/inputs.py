"""Which models a recipe merges, for each part of the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graftwork.errors import InvalidRecipe
from graftwork.merge.method import Method
from graftwork.merge.models.sources import Finder, Identity, Origin
from graftwork.merge.plan.binding import Binding
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.recipe.sections import ModelEntry, SliceEntry


@dataclass(frozen=True, slots=True)
class Input:
    """One model, or the layers of it from `first` on."""

    entry: ModelEntry
    origin: Origin
    first: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """Models that are merged with each other: a recipe's, or those of one slice, which makes `length` layers."""

    base: Input | None
    inputs: tuple[Input, ...]
    binding: Binding
    where: str
    length: int | None = None

    @property
    def operands(self) -> tuple[Input, ...]:
        """The base, where the method uses it, and the inputs."""
        return self.inputs if self.base is None else (self.base, *self.inputs)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a recipe of whole models reads from, found."""

    base: Origin | None
    sections: tuple[Section, ...]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every model that is read, once, in the order of the sections."""
        found = [operand.origin for section in self.sections for operand in section.operands]
        return tuple({origin.identity: origin for origin in reversed(found)}[key] for key in _keys(found))

    @property
    def models(self) -> tuple[tuple[ModelEntry, Origin], ...]:
        """What the recipe says of each model that is merged; of a model in several slices, what it says first."""
        listed = [(member.entry, member.origin) for section in self.sections for member in section.inputs]
        if len(self.sections) == 1 and self.sections[0].length is None:
            return tuple(listed)
        first = {origin.identity: (entry, origin) for entry, origin in reversed(listed)}
        return tuple(first[key] for key in _keys([origin for _, origin in listed]))


def find_inputs(recipe: Recipe, method: Method, finder: Finder) -> Inputs:
    """The models of a recipe. A base listed among the models of a method that has one is no input, as in mergekit.

    Raises InvalidRecipe for a wrong number of models or a missing base, and what finding them raises.
    """
    known = {reference: finder.find(reference) for reference in recipe.references}
    base = known[recipe.base_model] if recipe.base_model is not None else None
    if not recipe.slices:
        return Inputs(base, (_whole(recipe, method, base, known),))
    sections = tuple(
        _slice(recipe, method, entry, f"slices[{position}]", known) for position, entry in enumerate(recipe.slices)
    )
    return Inputs(base, sections)


def _whole(recipe: Recipe, method: Method, base: Origin | None, known: dict[str, Origin]) -> Section:
    if base is None and method.needs_base:
        raise InvalidRecipe(where="base_model", reason=f"{method.name} needs a base_model")
    inputs = [Input(entry, known[entry.model]) for entry in recipe.models]
    where = [f"models[{position}]" for position in range(len(inputs))]
    apart = base is not None and method.takes_base
    if apart and base is not None:
        kept = [position for position, member in enumerate(inputs) if member.origin.identity != base.identity]
        inputs, where = [inputs[position] for position in kept], [where[position] for position in kept]
    elif base is not None and recipe.compat == "mergekit" and base.identity not in _keys([i.origin for i in inputs]):
        inputs.append(Input(ModelEntry(model=base.label), base))
        where.append("base_model")
    _check_count(method, len(inputs), "models")
    binding = Binding(method, recipe, [member.entry for member in inputs], where=where)
    first = Input(ModelEntry(model=base.label), base) if apart and base is not None else None
    return Section(first, tuple(inputs), binding, "models")


def _slice(recipe: Recipe, method: Method, entry: SliceEntry, where: str, known: dict[str, Origin]) -> Section:
    reference = entry.base_model or recipe.base_model
    base = known[reference] if reference is not None and method.takes_base else None
    if base is None and method.needs_base:
        raise InvalidRecipe(where=f"{where}.base_model", reason=f"{method.name} needs a base_model")
    sources = [Input(source, known[source.model], source.layer_range[0]) for source in entry.sources]
    kept = [
        position for position, member in enumerate(sources) if base is None or member.origin.identity != base.identity
    ]
    apart = [member for position, member in enumerate(sources) if position not in kept]
    if base is not None and len(apart) != 1:
        there = f"it is there {len(apart)} times" if apart else "it is not among them"
        reason = f"the base {base.label} must be one of the sources, so that its layers are known; {there}"
        raise InvalidRecipe(where=f"{where}.sources", reason=reason)
    inputs = tuple(sources[position] for position in kept)
    _check_count(method, len(inputs), f"{where}.sources")
    binding = Binding(
        method,
        recipe,
        [member.entry for member in inputs],
        where=[f"{where}.sources[{position}]" for position in kept],
        slice_=(f"{where}.parameters", entry.parameters),
    )
    return Section(apart[0] if apart else None, inputs, binding, where, entry.length)


def _check_count(method: Method, count: int, where: str) -> None:
    least, most = method.models
    if count < least or (most is not None and count > most):
        expected = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        beside = " besides the base" if method.needs_base else ""
        models = "model" if expected.split()[-1] == "1" else "models"
        reason = f"{method.name} takes {expected} {models}{beside}; there are {count}"
        raise InvalidRecipe(where=where, reason=reason)


def _keys(origins: Sequence[Origin]) -> list[Identity]:
    return list(dict.fromkeys(origin.identity for origin in origins))
