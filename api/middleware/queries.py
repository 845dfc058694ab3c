"""Query parameters that no route knows are refused, as keys of a body are: a typo must not change what is done."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant

from graftwork.errors import InvalidRequest


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise InvalidRequest for a query parameter that the route of `request` does not take."""
    if not request.query_params:
        return
    known = list(dict.fromkeys(_parameters(request.scope["route"].dependant)))
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        listed = f"there is {', '.join(known)}" if known else "there is none here"
        raise InvalidRequest(field=unknown[:80], reason=f"there is no such query parameter; {listed}")


def _parameters(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)
