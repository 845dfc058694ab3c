"""Bodies of requests that are read whole, with a limit, and the JSON in them."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from graftwork.errors import InvalidRequest, TooLarge


async def read_body(request: Request, *, limit: int) -> bytes:
    """The whole body, at most `limit` bytes of it. Raises TooLarge, and ClientDisconnect as Starlette does."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(what="The request", actual="more bytes", limit=f"{limit} bytes")
    return bytes(body)


def parse_object(body: bytes, field: str = "body") -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(field=field, reason=f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidRequest(field=field, reason="it is not a JSON object")
    return value
