"""Calls about what is quarantined and what was withdrawn, and what was made of it."""

from __future__ import annotations

from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.marks import MarkOut, QuarantineOut
from graftwork.api.schemas.rebuilds import RebuildPlanOut
from graftwork.client.call import Call, call, version_path


def listing(*, mark: str | None = None, by_hand: bool = False, limit: int = 100) -> Call[list[MarkOut]]:
    """What is marked, the newest versions first; a client's `pages` goes through all of them."""
    return call("GET", "/marks", list[MarkOut], query={"mark": mark, "by_hand": by_hand, "limit": limit})


def quarantine(ref: str, *, reason: str = "") -> Call[QuarantineOut]:
    """Stop a version, and all that was made of it, from being served and merged."""
    return call("PUT", version_path(ref, "quarantine"), QuarantineOut, json={"reason": reason})


def lift(ref: str, *, reason: str = "") -> Call[list[MarkOut]]:
    """End the quarantine of a version and of what was made of it."""
    return call("DELETE", version_path(ref, "quarantine"), list[MarkOut], query={"reason": reason})


def withdraw(ref: str, *, reason: str = "") -> Call[list[MarkOut]]:
    """Delete a version; it stays in the lineage."""
    return call("DELETE", version_path(ref), list[MarkOut], query={"reason": reason})


def plan_rebuild(ref: str, *, replace_by: str | None = None) -> Call[RebuildPlanOut]:
    """What would be made again without a version, and what cannot be."""
    return call("POST", "/rebuilds/plan", RebuildPlanOut, json={"ref": ref, "replace_by": replace_by})


def rebuild(ref: str, *, replace_by: str | None = None, move_aliases: bool = False) -> Call[JobOut]:
    """Queue that everything that was made of a version is made again, without it or with another in its place."""
    body = {"ref": ref, "replace_by": replace_by, "move_aliases": move_aliases}
    return call("POST", "/rebuilds", JobOut, json=body)
