"""Parameter values of a recipe: numbers, gradients over the layers, and values chosen by tensor name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from graftwork.errors import InvalidParameter

Scalar = bool | int | float | str | None
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
"""A number that YAML 1.1 reads as text, such as 1e-5."""


@dataclass(frozen=True, slots=True)
class Gradient:
    """Values spread evenly over the depth of the model and interpolated linearly between."""

    points: tuple[float, ...]

    def at(self, depth: float) -> float:
        """The value at `depth`, 0 for the first layer and 1 for the last."""
        place = depth * (len(self.points) - 1)
        left = min(int(place), len(self.points) - 1)
        right = min(left + 1, len(self.points) - 1)
        share = place - left
        return (1 - share) * self.points[left] + share * self.points[right]


@dataclass(frozen=True, slots=True)
class Conditional:
    """A value for the tensors whose name contains `filter`; for every tensor when it is None or `*`."""

    filter: str | None
    value: Setting

    def applies_to(self, tensor: str) -> bool:
        """Whether the tensor's name contains the filter."""
        return self.filter is None or self.filter == "*" or self.filter in tensor


Setting = Scalar | Gradient | tuple[Conditional, ...]
"""What a recipe may give for a parameter, with mergekit's meaning."""


class Unset:
    """No branch of a setting applies to the tensor."""


UNSET = Unset()


def parse_setting(raw: Any, *, parameter: str, where: str, accepts: TypeAdapter[Any]) -> Setting:
    """The setting that `raw`, as YAML gives it, stands for; every value in it is checked against `accepts`.

    Raises InvalidParameter naming the place in the recipe.
    """
    if isinstance(raw, Mapping):
        raw = [raw]
    if not isinstance(raw, list):
        return _parse_scalar(raw, parameter, where, accepts)
    if not raw:
        raise InvalidParameter(parameter=parameter, where=where, value=raw, expected="a list must not be empty")
    if all(isinstance(item, Mapping) for item in raw):
        return tuple(
            _parse_conditional(item, parameter, f"{where}[{position}]", accepts) for position, item in enumerate(raw)
        )
    points = [_parse_scalar(item, parameter, f"{where}[{position}]", accepts) for position, item in enumerate(raw)]
    numbers = [float(point) for point in points if isinstance(point, (int, float)) and not isinstance(point, bool)]
    if len(numbers) != len(points):
        raise InvalidParameter(
            parameter=parameter, where=where, value=raw, expected="a gradient over the layers is a list of numbers"
        )
    return Gradient(tuple(numbers))


def evaluate(setting: Setting | Unset, tensor: str, depth: float) -> Scalar | Unset:
    """The value of `setting` for a tensor at a depth of the model; UNSET when no filter matches its name."""
    if isinstance(setting, Gradient):
        return setting.at(depth)
    if isinstance(setting, tuple):
        for conditional in setting:
            if conditional.applies_to(tensor):
                return evaluate(conditional.value, tensor, depth)
        return UNSET
    return setting


def first_set(settings: Sequence[Setting | Unset], tensor: str, depth: float) -> Scalar | Unset:
    """The value of the first setting, from the most specific to the least, that covers the tensor."""
    for setting in settings:
        value = evaluate(setting, tensor, depth)
        if not isinstance(value, Unset):
            return value
    return UNSET


def explain(error: ValidationError) -> str:
    """What pydantic expected, as the end of a sentence: `expected a number greater than 0`."""
    return "; ".join(_lowered(detail["msg"]) for detail in error.errors(include_url=False))


def _parse_conditional(item: Any, parameter: str, where: str, accepts: TypeAdapter[Any]) -> Conditional:
    if "value" not in item or not set(item) <= {"filter", "value"}:
        raise InvalidParameter(
            parameter=parameter, where=where, value=dict(item), expected="a filtered value is {filter: ..., value: ...}"
        )
    chosen = item.get("filter")
    if chosen is not None and not isinstance(chosen, str):
        raise InvalidParameter(
            parameter=parameter, where=f"{where}.filter", value=chosen, expected="a filter is part of a tensor's name"
        )
    value = parse_setting(item["value"], parameter=parameter, where=f"{where}.value", accepts=accepts)
    return Conditional(chosen, value)


def _parse_scalar(raw: Any, parameter: str, where: str, accepts: TypeAdapter[Any]) -> Scalar:
    number = float(raw) if isinstance(raw, str) and NUMBER.fullmatch(raw) else raw
    if accepts.core_schema["type"] == "bool":
        number = _as_flag(number)
    try:
        value: Scalar = accepts.validate_python(number, strict=True)
    except ValidationError as error:
        raise InvalidParameter(parameter=parameter, where=where, value=raw, expected=explain(error)) from None
    return value


def _as_flag(value: Any) -> Any:
    """1 and 0 as booleans, as mergekit writes them into its model cards, and their names as text."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else value


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
