"""Listings in pages: each leads to the next one by `Link: rel="next"` (RFC 8288)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Request, Response

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one listing, by the request for one of them and the response to it."""

    request: Request
    response: Response

    def page(
        self, found: Sequence[T], limit: int, position: Callable[[T], object], *, parameter: str = "after"
    ) -> Sequence[T]:
        """The first `limit` of what was found, where one more was looked for.

        Where it was there, the same request with the `position` of the last one as `parameter` leads to the rest.
        """
        if len(found) > limit:
            query = urlencode({**self.request.query_params, parameter: position(found[limit - 1])})
            self.response.headers["Link"] = f'<{self.request.url.path}?{query}>; rel="next"'
        return found[:limit]


async def _pages(request: Request, response: Response) -> Pages:
    return Pages(request, response)


PagesDep = Annotated[Pages, Depends(_pages)]
