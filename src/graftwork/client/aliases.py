"""Calls about aliases."""

from __future__ import annotations

from typing import Any

from graftwork.api.schemas.aliases import AliasMoveOut, AliasOut
from graftwork.client.call import Call, artifact_path, call, silent

ANYWHERE = object()
"""An alias that may be moved from wherever it is."""


def listing(name: str) -> Call[list[AliasOut]]:
    """The aliases of the artifact `ns/name`."""
    return call("GET", artifact_path(name, "aliases"), list[AliasOut])


def move(name: str, alias: str, version: str, *, expected: Any = ANYWHERE, reason: str = "") -> Call[AliasOut]:
    """Point an alias at a version: `v3`, another alias, or a digest.

    expected: the digest that it points to now, or None if it does not exist yet; otherwise it stays, AliasConflict
    """
    body: dict[str, Any] = {"version": version, "reason": reason}
    if expected is not ANYWHERE:
        body["expected"] = expected
    return call("PUT", artifact_path(name, "aliases", alias), AliasOut, json=body)


def remove(name: str, alias: str, *, reason: str = "") -> Call[None]:
    """Remove an alias; its history stays, and the reason in it."""
    return silent("DELETE", artifact_path(name, "aliases", alias), query={"reason": reason})


def history(name: str, alias: str) -> Call[list[AliasMoveOut]]:
    """Every move of an alias, oldest first."""
    return call("GET", artifact_path(name, "aliases", alias, "history"), list[AliasMoveOut])
