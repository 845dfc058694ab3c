"""Sweeps: one recipe, a grid over its parameters, and how each result is judged."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graftwork.errors import InvalidRecipe, InvalidSweep, SourceNotFound
from graftwork.errors.wording import UNKNOWN_KEY
from graftwork.merge.recipe.documents import load_yaml
from graftwork.merge.recipe.parameters import explain
from graftwork.merge.recipe.problem import did_you_mean, first_problem
from graftwork.merge.recipe.recipe import Recipe, load_recipe
from graftwork.merge.sweep.path import Place, parse_path, replaced

MODEL = "{model}"
"""Stands for the merged folder in the evaluation's command."""
MOST_POINTS = 10_000

Goal = Literal["maximise", "minimise"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Judge(_Section):
    """The `evaluate` section: a command that prints metrics as JSON, and which of them decides."""

    command: tuple[str, ...] = Field(min_length=1)
    metric: str
    goal: Goal = "maximise"
    timeout: Positive = 3600


class Steps(_Section):
    """Evenly spaced values, both ends included: {from: 0.1, to: 0.5, step: 0.1}."""

    from_: Annotated[Decimal, Field(alias="from", allow_inf_nan=False)]
    to: Annotated[Decimal, Field(allow_inf_nan=False)]
    step: Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _goes_up(self) -> Self:
        if self.to < self.from_:
            raise ValueError(f"from {self.from_} to {self.to} goes backwards; put the smaller number first")
        return self

    def values(self) -> tuple[int | float, ...]:
        """The values, in decimal arithmetic, so that 0.1 + 0.2 is 0.3; whole where all three numbers are."""
        count = min(int((self.to - self.from_) / self.step) + 1, MOST_POINTS + 1)
        numbers = (self.from_ + place * self.step for place in range(count))
        whole = all(number == number.to_integral_value() for number in (self.from_, self.step))
        return tuple(int(number) if whole else float(number) for number in numbers)


class _Document(_Section):
    recipe: str | dict[str, Any]
    grid: dict[str, list[Any] | Steps] = Field(min_length=1)
    evaluate: Judge


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of a value for every path of the grid, and the recipe that it gives."""

    values: Mapping[str, Any]
    recipe: Recipe

    @property
    def label(self) -> str:
        """`parameters.lambda=0.3, seed=1`."""
        return ", ".join(f"{path}={value}" for path, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep whose every point was checked to be a recipe."""

    points: tuple[Point, ...]
    judge: Judge


def load_sweep(file: Path) -> Sweep:
    """The sweep in a YAML file: `recipe` (a recipe, or the path of one), `grid` and `evaluate`.

    Raises SourceNotFound, InvalidSweep naming the place in the file, and what reading the recipe raises.
    """
    raw = _read(file, "a sweep in YAML")
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        raise _first_problem(error) from None
    if not any(MODEL in argument for argument in document.evaluate.command):
        raise InvalidSweep(where="evaluate.command", reason=f"no argument holds {MODEL}, the merged model's folder")
    program = document.evaluate.command[0]
    if MODEL not in program and shutil.which(program) is None:
        raise InvalidSweep(where="evaluate.command[0]", reason=f"there is no program {program!r}")
    recipe = _recipe(document.recipe)
    grid = {path: given.values() if isinstance(given, Steps) else given for path, given in document.grid.items()}
    return Sweep(expand(recipe, grid), document.evaluate)


def load_request(file: Path) -> dict[str, Any]:
    """What a file asks of a server, with the recipe that it may name in it; the server says what is wrong with it.

    Raises SourceNotFound, and InvalidSweep, also for a command: what a server runs is what its operator configured.
    """
    raw = _read(file, "a sweep in YAML")
    if isinstance(judge := raw.get("evaluate"), dict) and "command" in judge:
        reason = "a server does not run it: name a dataset of the registry, or an evaluator of the operator's, instead"
        raise InvalidSweep(where="evaluate.command", reason=reason)
    return {**raw, "recipe": _recipe(raw.get("recipe"))}


def expand(recipe: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> tuple[Point, ...]:
    """Every combination of the grid's values put into the recipe, the last path's values changing fastest.

    Raises InvalidSweep naming the path or the point, and InvalidRecipe if the recipe is wrong as it stands.
    """
    paths = {text: parse_path(text) for text in grid}
    _check_apart(paths)
    count = 1
    for text, values in grid.items():
        count *= len(values)
        if not values:
            raise InvalidSweep(where=f"grid.{text}", reason="there are no values")
    if count > MOST_POINTS:
        raise InvalidSweep(where="grid", reason=f"it has {count:,} points; at most {MOST_POINTS:,} are accepted")
    return tuple(_point(recipe, paths, chosen) for chosen in itertools.product(*grid.values()))


def _point(recipe: Mapping[str, Any], paths: Mapping[str, Place], chosen: Sequence[Any]) -> Point:
    raw: Any = recipe
    for path, value in zip(paths.values(), chosen, strict=True):
        raw = replaced(raw, path, value)
    values = dict(zip(paths, chosen, strict=True))
    try:
        return Point(values, load_recipe(raw))
    except InvalidRecipe as error:
        label = ", ".join(f"{path}={value}" for path, value in values.items())
        raise InvalidSweep(where=f"the point {label}", reason=str(error).rstrip(".")) from None


def _check_apart(paths: Mapping[str, Place]) -> None:
    for (one, steps), (other, longer) in itertools.permutations(paths.items(), 2):
        if longer.steps[: len(steps.steps)] == steps.steps:
            raise InvalidSweep(where=f"grid.{other}", reason=f"grid.{one} sets what it lies in")


def _recipe(given: Any) -> Any:
    """A recipe, or what is in the file of that path."""
    return _read(Path(given).expanduser(), "a recipe in YAML") if isinstance(given, str) else given


def _read(file: Path, expected: str) -> dict[str, Any]:
    try:
        documents = load_yaml(file.read_text(encoding="utf-8"))
    except OSError:
        raise SourceNotFound(source=str(file), expected=expected) from None
    except UnicodeDecodeError:
        raise InvalidSweep(where=str(file), reason="the file is not text in UTF-8") from None
    except ValueError as error:
        raise InvalidSweep(where=str(file), reason=str(error)) from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InvalidSweep(where=str(file), reason=f"expected {expected}: one mapping")
    return documents[0]


def _first_problem(error: ValidationError) -> InvalidSweep:
    problem = first_problem(error)
    place = [str(step) for step in problem["loc"]] or ["the top"]
    if problem["type"] == UNKNOWN_KEY and place[0] != "grid":
        known = Judge.model_fields if place[0] == "evaluate" else _Document.model_fields
        reason = f"there is no such key; there is {did_you_mean(place[-1], known)}"
        return InvalidSweep(where=".".join(place), reason=reason)
    if place[0] == "grid" and len(place) > 1:
        told = [each["msg"] for each in error.errors() if each["type"] == "value_error"]
        usual = "expected a list of values, or {from: ..., to: ..., step: ...}"
        reason = told[0].removeprefix("Value error, ") if told else usual
        return InvalidSweep(where=f"grid.{place[1]}", reason=reason)
    return InvalidSweep(where=".".join(place) or "the top", reason=explain(error).split("; ")[0])
