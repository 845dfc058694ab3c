"""What pydantic finds wrong, in words for those who never heard of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

OBJECTS = frozenset({"dict_type", "model_type", "model_attributes_type", "dataclass_type", "mapping_type"})
LISTS = frozenset({"list_type", "tuple_type"})
SIZE = re.compile(r"^\w+ should have (.*?)( after validation.*)?$")
UNKNOWN_KEY = "extra_forbidden"


def in_words(problem: ErrorDetails) -> str:
    """What is wrong with the value at `problem["loc"]`, as the end of a sentence."""
    kind, told = problem["type"], problem["msg"]
    if kind in OBJECTS:
        return "expected an object of keys and values"
    if kind in LISTS:
        return "expected a list"
    if kind == "missing":
        return "it is required"
    if kind == UNKNOWN_KEY:
        return "there is no such key"
    if kind == "json_invalid":
        return f"it is not JSON ({problem.get('ctx', {}).get('error', told)})"
    for prefix, plain in (("Value error, ", ""), ("Input should be ", "expected ")):
        told = plain + told.removeprefix(prefix) if told.startswith(prefix) else told
    told = SIZE.sub(r"expected \1", told).rstrip(".")
    return told[:1].lower() + told[1:]


def first_problem(problems: list[ErrorDetails]) -> ErrorDetails:
    """The one to tell: a key that there is not before one that is missing, of which it may be a misspelling."""
    first = problems[0]
    if first["type"] != "missing":
        return first
    return next((problem for problem in problems if problem["type"] == UNKNOWN_KEY), first)
