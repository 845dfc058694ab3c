"""Texts of JSON bodies: `\\ud800` alone is JSON, but half of a surrogate pair is no character and cannot be stored."""

from __future__ import annotations

import json
import re

from fastapi import Request

from graftwork.api.middleware.errors import is_json
from graftwork.errors import InvalidRequest

ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def refuse_half_characters(request: Request) -> None:
    """Raise InvalidRequest for a JSON body with a text that has half of a surrogate pair."""
    if not is_json(request) or not ESCAPED_SURROGATE.search(await request.body()):
        return
    try:
        json.dumps(await request.json(), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        reason = f"a text in it has {half}, half of a surrogate pair, which is no character"
        raise InvalidRequest(field="body", reason=reason) from None
