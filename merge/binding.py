"""A method bound to a recipe's parameters: checked once, evaluated for each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graftwork.errors import InvalidRecipe, UnknownParameter
from graftwork.merge.method import Method, Parameter
from graftwork.merge.parameters import Setting, Unset, first_set, parse_setting
from graftwork.merge.recipe import ModelEntry, Recipe, did_you_mean

Level = Mapping[str, Setting]


class Binding:
    """The parameters of `recipe` for `method`, with the models in `entries` as the inputs.

    A parameter is looked for at the model, then at the recipe, then among the defaults. Raises UnknownParameter and
    InvalidParameter naming the place in the recipe.
    """

    def __init__(self, method: Method, recipe: Recipe, entries: tuple[ModelEntry, ...]) -> None:
        self.method = method
        places = {id(entry): position for position, entry in enumerate(recipe.models)}
        self._everywhere = self._parse(recipe.parameters, "parameters", method.parameters)
        self._by_model = [
            self._parse(entry.parameters, f"models[{places[id(entry)]}].parameters", self._per_model())
            for entry in entries
        ]
        self._where = [f"models[{places[id(entry)]}]" for entry in entries]
        self._built: dict[tuple[Any, ...], Any] = {}

    def at(self, tensor: str, depth: float) -> Any:
        """The method with the parameters of a tensor (or module) at a depth of the model. Raises InvalidRecipe."""
        values = {name: self._value(parameter, tensor, depth) for name, parameter in self.method.parameters.items()}
        key = tuple(values.values())
        if key not in self._built:
            try:
                self._built[key] = self.method.build(values)
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

    def _value(self, parameter: Parameter, tensor: str, depth: float) -> Any:
        if parameter.per_model:
            return tuple(
                self._look_up(parameter, [level, self._everywhere], tensor, depth, where)
                for level, where in zip(self._by_model, self._where, strict=True)
            )
        return self._look_up(parameter, [self._everywhere], tensor, depth, "parameters")

    def _look_up(self, parameter: Parameter, levels: list[Level], tensor: str, depth: float, where: str) -> Any:
        given = [level[parameter.name] for level in levels if parameter.name in level]
        value = first_set(given, tensor, depth)
        if not isinstance(value, Unset):
            return value
        if parameter.required:
            reason = f"{self.method.name} needs {parameter.name}, and none is given for {tensor}"
            raise InvalidRecipe(where=where, reason=reason)
        return parameter.default
