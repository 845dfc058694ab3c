"""Recipes: which models are merged, and how. The YAML is mergekit's, with a few keys more."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from graftwork.errors import InvalidRecipe, SourceNotFound
from graftwork.merge.parameters import explain
from graftwork.settings import parse_size

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
NOT_YET = {
    "slices": "slices of layers",
    "modules": "several modules in one recipe",
    "tokenizer": "the tokenizer section (tokenizer_source: base or the path of a model is)",
    "chat_template": "replacing the chat template",
    "evaluate": "evaluation after a merge",
    "compat": "reproducing mergekit's deviations",
}
DEFAULT_SHARD_SIZE = "5GB"

Finite = Annotated[float, Field(allow_inf_nan=False)]
DtypeName = Literal["float32", "float16", "bfloat16", "float64"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelEntry(_Section):
    """One model to merge and the parameters that hold for it alone."""

    model: str
    parameters: dict[str, Any] = {}


class LinesModifier(_Section):
    """LiNeS: the merged delta of block l of L is scaled by alpha + beta * l / (L - 1); outside the blocks by alpha."""

    alpha: Finite | Literal["auto"]
    beta: Finite


class ModifierEntry(_Section):
    """One change to the merged delta, made after the method and before it is added to the base."""

    lines: LinesModifier


class Output(_Section):
    """How the result is named and cut into files."""

    name: str | None = None
    aliases: tuple[str, ...] = ()
    shard_size: str | int = DEFAULT_SHARD_SIZE

    @field_validator("shard_size")
    @classmethod
    def _is_a_size(cls, value: str | int) -> str | int:
        if parse_size(str(value)) <= 0:
            raise ValueError("a size such as 5GB")
        return value

    @property
    def shard_bytes(self) -> int:
        """The size a file may reach before the next one begins, in bytes."""
        return parse_size(str(self.shard_size))


class Recipe(_Section):
    """A whole recipe, as written; parameters are checked when the method is known to the planner."""

    merge_method: str
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    base_model: str | None = None
    parameters: dict[str, Any] = {}
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: str | None = None
    modifiers: tuple[ModifierEntry, ...] = ()
    output: Output = Output()
    seed: int = Field(default=0, ge=0, lt=2**63)

    def as_yaml(self) -> str:
        """The recipe as YAML, without what was not given and without where the result goes."""
        text: str = yaml.safe_dump(_plain(self), sort_keys=False, allow_unicode=True)
        return text


def load_recipe(source: Path | str | Mapping[str, Any]) -> Recipe:
    """The recipe in a file (a Path), in a YAML text (a str) or in a mapping that was already parsed.

    Raises SourceNotFound when there is no such file, InvalidRecipe for what is not a recipe or not supported.
    """
    raw = _parse_yaml(_read(source)) if isinstance(source, (Path, str)) else source
    if not isinstance(raw, Mapping):
        raise InvalidRecipe(where="the top", reason="expected a mapping with merge_method and models")
    for key, what in NOT_YET.items():
        if key in raw:
            raise InvalidRecipe(where=key, reason=f"{what} is not supported yet")
    try:
        return Recipe.model_validate(dict(raw))
    except ValidationError as error:
        raise _first_problem(error) from None


def digest(recipe: Recipe) -> str:
    """SHA-256 of the recipe's content, 64 hex digits; whatever the order of its keys.

    Defaults and the name and aliases of the result are not part of it: recipes of one digest give the same bytes.
    """
    canonical = json.dumps(_plain(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The known names as a list, with the closest one pointed out."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    return ", ".join(names) + (f" (did you mean {close[0]}?)" if close else "")


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"output": {"name", "aliases"}})
    return {key: value for key, value in plain.items() if value != {}}


def _read(source: Path | str) -> str:
    if isinstance(source, str):
        return source
    try:
        return source.read_text(encoding="utf-8")
    except OSError:
        raise SourceNotFound(source=str(source), expected="a recipe in YAML") from None
    except UnicodeDecodeError:
        raise InvalidRecipe(where=str(source), reason="the file is not text in UTF-8") from None


def _parse_yaml(text: str) -> Any:
    try:
        documents = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise InvalidRecipe(where="the YAML", reason=" ".join(str(error).split())) from None
    if len(documents) > 1:
        raise InvalidRecipe(where="the YAML", reason="several documents in one recipe are not supported yet")
    return documents[0] if documents else None


def _first_problem(error: ValidationError) -> InvalidRecipe:
    problem = error.errors(include_url=False)[0]
    place = problem["loc"]
    if problem["type"] != "extra_forbidden":
        return InvalidRecipe(where=_path(place) or "the top", reason=explain(error).split("; ")[0])
    known = did_you_mean(str(place[-1]), _keys_beside(place))
    return InvalidRecipe(where=_path(place), reason=f"there is no such key; there is {known}")


def _keys_beside(place: tuple[int | str, ...]) -> Iterable[str]:
    sections: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "modifiers": ModifierEntry,
        "lines": LinesModifier,
        "output": Output,
    }
    named = [sections[step] for step in place[:-1] if isinstance(step, str) and step in sections]
    return (named[-1] if named else Recipe).model_fields


def _path(place: tuple[int | str, ...]) -> str:
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")
