"""Recipes: which models are merged, and how. The YAML is mergekit's, with a few keys more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from graftwork.errors import InvalidRecipe, SourceNotFound
from graftwork.errors.wording import UNKNOWN_KEY, in_words
from graftwork.merge.recipe.documents import flatten_modules, parse_documents
from graftwork.merge.recipe.problem import did_you_mean, first_problem
from graftwork.merge.recipe.sections import (
    DTYPES,
    ConsensusModifier,
    DtypeName,
    LinesModifier,
    ModelEntry,
    ModelToken,
    ModifierEntry,
    Output,
    Parameters,
    Reference,
    Section,
    SliceEntry,
    SourceEntry,
    TokenEntry,
    TokenizerEntry,
)

__all__ = ["DTYPES", "ModelEntry", "Recipe", "SliceEntry", "did_you_mean", "digest", "load_recipe"]

NOT_YET = {
    "evaluate": "evaluation after a merge",
    "experts": "a mixture of experts made of dense models (mergekit-moe)",
}
KEYWORDS = frozenset({"union", "base"})
"""What a tokenizer's source may be that is no model."""
CONTAINERS = (Mapping, list, tuple)
TRIED = frozenset({"constrained-int", "float", "literal['auto']", "literal['full']"})
"""What pydantic puts into the place of a problem, where several kinds of values are accepted."""
MAX_DEPTH = 64
"""Mappings and lists in each other; pydantic writes no more than some 200."""
NOT_PART_OF_IT: dict[str, Any] = {
    "output": {"name", "aliases"},
    "steps": {"__all__": {"output": {"name", "aliases"}}},
}


class Recipe(Section):
    """A whole recipe, as written; parameters are checked when the method is known to the planner.

    `steps` are the earlier documents of the file, whose names stand for their results in later ones.
    """

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    merge_method: str
    models: tuple[ModelEntry, ...] = ()
    slices: tuple[SliceEntry, ...] = ()
    base_model: Reference | None = None
    parameters: Parameters = Field(default_factory=dict)
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: Reference | None = None
    tokenizer: TokenizerEntry | None = None
    chat_template: str | None = Field(default=None, min_length=1)
    compat: Literal["mergekit"] | None = None
    modifiers: tuple[ModifierEntry, ...] = ()
    output: Output = Output()
    seed: int = Field(default=0, ge=0, lt=2**63)
    steps: tuple[Recipe, ...] = ()

    @field_validator("parameters", mode="before")
    @classmethod
    def _may_be_left_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _names_what_is_merged(self) -> Recipe:
        if bool(self.models) == bool(self.slices):
            raise ValueError("expected either models or slices, and at least one of them")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise ValueError("tokenizer_source and tokenizer say the same; give one of them")
        return self

    @property
    def tokens(self) -> TokenizerEntry | None:
        """What the recipe says about the tokenizer, in the long form."""
        if self.tokenizer_source is not None:
            return TokenizerEntry(source=self.tokenizer_source)
        return self.tokenizer

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that is merged, once: the base, then the others in order. Without those of earlier steps."""
        return tuple(dict.fromkeys(self._references()))

    def with_references(self, renamed: Callable[[str], str]) -> Recipe:
        """The recipe with `renamed` applied to every reference to a model; names of steps are left as they are."""
        names = {step.name for step in self.steps}

        def rename(reference: str) -> str:
            return reference if reference in names or reference in KEYWORDS else renamed(reference)

        def changed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(changed(item) for item in value)
            if isinstance(value, TokenizerEntry):
                tokens = {token: changed(entry) for token, entry in value.tokens.items()}
                return value.model_copy(update={"source": rename(value.source), "tokens": tokens})
            if isinstance(value, TokenEntry):
                source = value.source
                return value.model_copy(
                    update={"source": rename(source) if isinstance(source, str) else changed(source)}
                )
            if isinstance(value, (ModelEntry, ModelToken)):
                return value.model_copy(update={"model": rename(value.model)})
            if isinstance(value, SliceEntry):
                base = None if value.base_model is None else rename(value.base_model)
                return value.model_copy(update={"sources": changed(value.sources), "base_model": base})
            return value

        return self.model_copy(
            update={
                "models": changed(self.models),
                "slices": changed(self.slices),
                "tokenizer": changed(self.tokenizer),
                "base_model": None if self.base_model is None else rename(self.base_model),
                "tokenizer_source": None if self.tokenizer_source is None else rename(self.tokenizer_source),
                "steps": tuple(step.with_references(rename) for step in self.steps),
            }
        )

    def as_yaml(self) -> str:
        """The recipe as YAML, without what was not given and without where the result goes."""
        documents = [_plain(recipe) for recipe in (*self.steps, self)]
        documents[-1].pop("steps", None)
        text: str = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
        return text

    def _references(self) -> Iterator[str]:
        if self.base_model is not None:
            yield self.base_model
        for entry in self.models:
            yield entry.model
        for section in self.slices:
            if section.base_model is not None:
                yield section.base_model
            for source in section.sources:
                yield source.model


def load_recipe(source: Path | str | Mapping[str, Any]) -> Recipe:
    """The recipe in a file (a Path), in a YAML text (a str) or in a mapping that was already parsed.

    Of several documents, one is the recipe: the one without a `name`, or else the last. Those that it needs become its
    steps. Raises SourceNotFound when there is no such file, InvalidRecipe for what is not a recipe or not supported.
    """
    if isinstance(source, Mapping):
        return _validated(source)
    documents = [_validated(raw) for raw in parse_documents(_read(source))]
    return documents[0] if len(documents) == 1 else _joined(documents)


def digest(recipe: Recipe) -> str:
    """SHA-256 of the recipe's content, 64 hex digits; whatever the order of its keys.

    Defaults and the name and aliases of the result are not part of it: recipes of one digest give the same bytes.
    """
    canonical = json.dumps(_plain(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(recipe: Recipe) -> dict[str, Any]:
    plain = recipe.model_dump(mode="json", exclude_defaults=True, exclude=NOT_PART_OF_IT)
    return {key: value for key, value in plain.items() if value != {}}


def _read(source: Path | str) -> str:
    if isinstance(source, str):
        return source
    try:
        return source.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise InvalidRecipe(where=str(source), reason="it is a folder; expected a file of YAML") from None
    except OSError:
        raise SourceNotFound(source=str(source), expected="a recipe in YAML") from None
    except UnicodeDecodeError:
        raise InvalidRecipe(where=str(source), reason="the file is not text in UTF-8") from None


def _validated(raw: Any) -> Recipe:
    if not isinstance(raw, Mapping):
        raise InvalidRecipe(where="the top", reason="expected a mapping with merge_method and models")
    for key, what in NOT_YET.items():
        if key in raw:
            raise InvalidRecipe(where=key, reason=f"{what} is not supported yet")
    steps = raw.get("steps") or ()
    if not isinstance(steps, list | tuple):
        raise InvalidRecipe(where="steps", reason="expected a list of recipes")
    try:
        for step in steps:
            _validated(step)
        json.dumps(raw, default=str, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRecipe(where="the top", reason="it holds text that is not Unicode") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise InvalidRecipe(where="the top", reason=f"it is not a document ({error})") from None
    if _is_deeper(raw, MAX_DEPTH):
        raise InvalidRecipe(where="the top", reason=f"it is nested more than {MAX_DEPTH} levels deep")
    try:
        return Recipe.model_validate(flatten_modules(raw))
    except ValidationError as error:
        raise _first_problem(error) from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether mappings and lists lie in each other more than `levels` deep."""
    layer = [value]
    for _ in range(levels):
        held = [item.values() if isinstance(item, Mapping) else item for item in layer if isinstance(item, CONTAINERS)]
        layer = [item for items in held for item in items]
    return any(isinstance(item, CONTAINERS) for item in layer)


def _joined(documents: list[Recipe]) -> Recipe:
    """The final document with the named ones that it needs, each after those that it needs itself."""
    named = {document.name: document for document in documents if document.name is not None}
    unnamed = [document for document in documents if document.name is None]
    if len(unnamed) > 1:
        raise InvalidRecipe(where="the YAML", reason="only one of several documents may be without a name")
    if len(named) + len(unnamed) < len(documents):
        names = [document.name for document in documents]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRecipe(where="name", reason=f"two documents are called {twice}")
    final = unnamed[0] if unnamed else documents[-1]
    ordered: list[Recipe] = []
    opened: list[str | None] = []

    def need(document: Recipe) -> None:
        if document.name in opened:
            raise InvalidRecipe(where="name", reason=f"{document.name} is made from itself")
        opened.append(document.name)
        for reference in document.references:
            step = named.get(reference.partition("+")[0])
            if step is not None and step not in ordered:
                need(step)
        opened.pop()
        ordered.append(document)

    need(final)
    if unused := [name for name, step in named.items() if step not in ordered]:
        raise InvalidRecipe(where=f"name: {unused[0]}", reason="no other document uses its result")
    return final.model_copy(update={"steps": tuple(ordered[:-1])})


def _first_problem(error: ValidationError) -> InvalidRecipe:
    problem = first_problem(error)
    place = problem["loc"]
    if problem["type"] != UNKNOWN_KEY:
        return InvalidRecipe(where=_path(place) or "the top", reason=in_words(problem))
    keys = _keys_beside(place)
    reason = f"there is no such key; there is {did_you_mean(str(place[-1]), keys)}"
    if "parameters" in keys:
        reason += "; what the method takes goes under parameters"
    return InvalidRecipe(where=_path(place), reason=reason)


def _keys_beside(place: tuple[int | str, ...]) -> Iterable[str]:
    sections: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "slices": SliceEntry,
        "sources": SourceEntry,
        "modifiers": ModifierEntry,
        "lines": LinesModifier,
        "consensus": ConsensusModifier,
        "tokenizer": TokenizerEntry,
        "tokens": TokenEntry,
        "output": Output,
        "steps": Recipe,
    }
    named = [sections[step] for step in place[:-1] if isinstance(step, str) and step in sections]
    return (named[-1] if named else Recipe).model_fields


def _path(place: tuple[int | str, ...]) -> str:
    """The keys that lead to a problem, without what pydantic calls the kind of value that it tried."""
    text = ""
    for step in (step for step in place if step not in TRIED):
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.lstrip(".")


def references_of(recipe: Recipe) -> list[str]:
    """Every reference of a recipe, those of its tokenizer and its steps among them."""
    found: list[str] = []

    def note(reference: str) -> str:
        found.append(reference)
        return reference

    recipe.with_references(note)
    return found
