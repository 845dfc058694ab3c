"""Links that let their bearer send one object, or one part of it, for a while: clients send those without a token.

What a link allows is written in it and signed by HMAC-SHA-256 with a secret that stays in the registry's home.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from graftwork.errors import Unauthorized

SECRET_FILE = "hub.secret"  # noqa: S105 (its name)
SECRET_BYTES = 32
OWNER_ONLY = 0o600
GOOD_SECONDS = 12 * 3600
MAX_TOKEN = 2000


@dataclass(frozen=True, slots=True)
class Grant:
    """What a link allows: to send the object `oid` of `size` bytes to the repository `key`.

    number: of the part, from 1 on; 0 is the whole object, or putting it together from `parts` parts
    """

    key: str
    oid: str
    size: int
    number: int = 0
    parts: int = 0


def sign(home: Path, grant: Grant, *, now: float | None = None) -> str:
    """The last part of the link for `grant`."""
    expires = int((time.time() if now is None else now) + GOOD_SECONDS)
    payload = json.dumps({**asdict(grant), "expires": expires}, separators=(",", ":")).encode()
    return f"{_encoded(payload)}.{_encoded(_signature(home, payload))}"


def verify(home: Path, token: str) -> Grant:
    """What the link allows. Raises Unauthorized for one that nobody signed here, or that is too old."""
    payload, _, signature = token.partition(".")
    try:
        raw, given = _decoded(payload), _decoded(signature)
    except (binascii.Error, ValueError):
        raw, given = b"", b""
    if len(token) > MAX_TOKEN or not hmac.compare_digest(given, _signature(home, raw)):
        raise Unauthorized(reason="this upload link was not made by this server; start the upload again")
    content: dict[str, Any] = json.loads(raw)
    if content.pop("expires") < time.time():
        raise Unauthorized(reason="this upload link is too old; start the upload again")
    return Grant(**content)


def _signature(home: Path, payload: bytes) -> bytes:
    return hmac.new(_secret(home), payload, hashlib.sha256).digest()


@lru_cache(maxsize=64)
def _secret(home: Path) -> bytes:
    """The secret in `home`, made on the first use. All processes of one home get the same one."""
    path = home / SECRET_FILE
    while True:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            fresh = home / f"{SECRET_FILE}.{secrets.token_hex(8)}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY), "wb") as file:
                file.write(secrets.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)
            except FileExistsError:  # another process was first
                pass
            finally:
                fresh.unlink()


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded.encode("ascii") + b"=" * (-len(encoded) % 4))
