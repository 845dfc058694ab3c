"""A method bound to a recipe's parameters: checked once, evaluated for each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graftwork.errors import InvalidRecipe, UnknownParameter
from graftwork.merge.method import Method, Parameter
from graftwork.merge.recipe.parameters import Setting, Unset, first_set, parse_setting
from graftwork.merge.recipe.recipe import ModelEntry, Recipe, did_you_mean

if TYPE_CHECKING:
    from graftwork.merge.modifiers.consensus import Consensus

Level = Mapping[str, Setting]
Place = tuple[str, Mapping[str, Any]]
"""Where in the recipe parameters are, and the parameters."""


class Binding:
    """The parameters of `recipe` for `method`, with the models in `entries` as the inputs.

    where:  where each entry is in the recipe; by default among its models
    slice_: the slice whose sources the entries are

    A parameter is looked for at the model, then at the slice, then at the recipe, then among the defaults. Raises
    UnknownParameter and InvalidParameter naming the place in the recipe.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        entries: Sequence[ModelEntry],
        *,
        where: Sequence[str] | None = None,
        slice_: Place | None = None,
    ) -> None:
        self.method = method
        self._where = where if where is not None else _places(recipe, entries)
        shared: list[Place] = [("parameters", recipe.parameters)]
        if slice_ is not None:
            shared.insert(0, slice_)
        self._shared = [self._parse(raw, place, method.parameters) for place, raw in shared]
        self._shared_where = shared[0][0]
        self._by_model = [
            self._parse(entry.parameters, f"{place}.parameters", self._per_model())
            for entry, place in zip(entries, self._where, strict=True)
        ]
        self._compat = recipe.compat == "mergekit"
        self._consensus = _find_consensus(recipe, method)
        self._built: dict[tuple[Any, ...], Any] = {}

    def at(self, tensor: str, depth: float, sources: Sequence[str] | None = None) -> Any:
        """The method with the parameters of a tensor (or module) at a depth of the model. Raises InvalidRecipe.

        sources: what each model calls the tensor, where that differs: filters of per-model values look at it
        """
        named = sources if sources is not None else [tensor] * len(self._by_model)
        values = {
            name: self._value(parameter, tensor, depth, named) for name, parameter in self.method.parameters.items()
        }
        key = tuple(values.values())
        try:
            if key not in self._built:
                built = self.method.build(values, compat=self._compat)
                self._built[key] = built if self._consensus is None else self._consensus.of(built)
            self.method.check(self._built[key], tensor)
        except ValueError as error:
            raise InvalidRecipe(where=f"the parameters for {tensor}", reason=error) from None
        return self._built[key]

    def _per_model(self) -> Mapping[str, Parameter]:
        return {name: parameter for name, parameter in self.method.parameters.items() if parameter.per_model}

    def _parse(self, raw: Mapping[str, Any], where: str, known: Mapping[str, Parameter]) -> Level:
        settings = {}
        for name, value in raw.items():
            if name not in known:
                raise self._unknown(name, where, known)
            settings[name] = parse_setting(value, parameter=name, where=f"{where}.{name}", accepts=known[name].accepts)
        return settings

    def _unknown(self, name: str, where: str, known: Mapping[str, Parameter]) -> InvalidRecipe:
        if name in self.method.parameters:
            reason = f"{name} holds for the whole merge; move it from the model to the recipe's parameters"
            return InvalidRecipe(where=f"{where}.{name}", reason=reason)
        return UnknownParameter(
            method=self.method.name, parameter=name, where=where, known=did_you_mean(name, known) or "none here"
        )

    def _value(self, parameter: Parameter, tensor: str, depth: float, sources: Sequence[str]) -> Any:
        if parameter.per_model:
            return tuple(
                self._look_up(parameter, [level, *self._shared], source, depth, where)
                for level, where, source in zip(self._by_model, self._where, sources, strict=True)
            )
        return self._look_up(parameter, self._shared, tensor, depth, self._shared_where)

    def _look_up(self, parameter: Parameter, levels: list[Level], tensor: str, depth: float, where: str) -> Any:
        given = [level[parameter.name] for level in levels if parameter.name in level]
        value = first_set(given, tensor, depth)
        if not isinstance(value, Unset):
            return value
        if parameter.required:
            reason = f"{self.method.name} needs {parameter.name}, and none is given for {tensor}"
            raise InvalidRecipe(where=where, reason=reason)
        return parameter.default


def _find_consensus(recipe: Recipe, method: Method) -> Consensus | None:
    if not recipe.modifiers:
        return None
    from graftwork.merge.modifiers.consensus import find_consensus

    return find_consensus(recipe, method)


def _places(recipe: Recipe, entries: Sequence[ModelEntry]) -> list[str]:
    places = {id(entry): position for position, entry in enumerate(recipe.models)}
    return [f"models[{places[id(entry)]}]" for entry in entries]
