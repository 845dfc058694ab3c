"""Bodies of requests, read with a limit, and the JSON in them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from graftwork.errors import InvalidRequest, TooLarge

MAX_BODY_BYTES = 4 << 20
MAX_TEXT = 4096
MAX_FIELDS = 1000


async def read_body(request: Request, *, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, at most `limit` bytes of it. Raises TooLarge, InvalidRequest."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLarge(what="The request", actual="more bytes", limit=f"{limit} bytes")
    except ClientDisconnect:
        raise InvalidRequest(field="body", reason="the client went away before it was complete") from None
    return bytes(body)


def parse_object(body: bytes, field: str = "body") -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest(field=field, reason="it is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidRequest(field=field, reason="it is not a JSON object")
    return value


def parse_form(body: bytes) -> dict[str, list[str]]:
    """The fields of a form that is URL-encoded. Raises InvalidRequest."""
    try:
        return parse_qs(body.decode(), max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise InvalidRequest(field="body", reason=f"it is not a form of at most {MAX_FIELDS} fields") from None


def text(value: dict[str, Any], key: str, default: str | None = None) -> str:
    """The text under `key`. Raises InvalidRequest when it is no text that can be stored, or absent without default."""
    found = value.get(key, default)
    if found is None and default is not None:
        return default
    if not isinstance(found, str) or len(found) > MAX_TEXT or "\0" in found or not _is_encodable(found):
        raise InvalidRequest(field=key, reason=f"it must be a text of at most {MAX_TEXT} characters")
    return found


def size_of(value: dict[str, Any], key: str = "size") -> int:
    """The number of bytes under `key`. Raises InvalidRequest."""
    found = value.get(key)
    if type(found) is not int or not 0 <= found < 1 << 53:
        raise InvalidRequest(field=key, reason="it must be a number of bytes")
    return found


def _is_encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
