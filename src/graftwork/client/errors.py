"""Failures that a server tells, raised here as the class that they have there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from graftwork.errors import GraftworkError

STANDARD = frozenset({"type", "title", "status", "detail", "code"})
"""What every problem has beside the fields of its own (RFC 9457)."""


def raise_for(response: httpx.Response) -> None:
    """Raise what a response tells, if it is a failure."""
    if response.is_error:
        problem = _problem(response)
        place = response.request.url.copy_with(query=None)  # the query of another host's may be a secret
        message = problem.get("detail") or f"{place} answered {response.status_code}."
        fields = {name: value for name, value in problem.items() if name not in STANDARD}
        raise failure(str(problem.get("code", "")), str(message), fields)


def failure(code: str, message: str, fields: Mapping[str, Any]) -> GraftworkError:
    """The error of the class with that code, in the server's own words; a GraftworkError for a code unknown here."""
    kinds = {kind.code: kind for kind in _known(GraftworkError)}
    kind = kinds.get(code, GraftworkError)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.fields = dict(fields)
    return error


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _known(kind: type[GraftworkError]) -> Iterator[type[GraftworkError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _known(child)
