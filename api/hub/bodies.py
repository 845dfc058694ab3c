"""What is in the bodies of the Hub's requests: forms, and fields of JSON objects."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from graftwork.errors import InvalidRequest

MAX_BODY_BYTES = 4 << 20
"""Of requests that carry no file."""
MAX_TEXT = 4096
MAX_FIELDS = 1000


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
