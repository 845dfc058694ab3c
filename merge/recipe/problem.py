"""What is told of what is wrong with a recipe, a sweep or a job's payload."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from graftwork.errors import wording
from graftwork.errors.wording import UNKNOWN_KEY, in_words


def first_problem(error: ValidationError) -> ErrorDetails:
    """The problem to tell: a key that there is not before one that is missing, of which it may be a misspelling."""
    return wording.first_problem(error.errors(include_url=False))


def reason_of(problem: ErrorDetails, form: type[BaseModel]) -> str:
    """What is wrong, of a problem that validating as `form` gave; with the known keys for one that there is not."""
    place = problem["loc"]
    if problem["type"] == UNKNOWN_KEY:
        return f"there is no such key; there is {did_you_mean(str(place[-1]), _keys(form, place[:-1]))}"
    return in_words(problem)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The known names as a list, with the closest one pointed out."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    return ", ".join(names) + (f" (did you mean {close[0]}?)" if close else "")


def _keys(form: type[BaseModel], place: Iterable[int | str]) -> Iterable[str]:
    for step in place:
        field = form.model_fields.get(str(step))
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        form = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), form)
    return form.model_fields
