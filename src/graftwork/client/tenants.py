"""Calls about who may do what: oneself, and for administrators tokens, quotas and the audit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from graftwork.api.schemas.audit import AuditOut
from graftwork.api.schemas.quotas import QuotaOut
from graftwork.api.schemas.tokens import NewTokenOut, TokenOut
from graftwork.client.call import Call, call

if TYPE_CHECKING:
    import httpx


class Identity(BaseModel):
    """Whom a server takes one for; `namespaces` is empty where one may write in all of them, or in none."""

    owner: str
    writes: bool
    namespaces: list[str]


def whoami() -> Call[Identity]:
    """Whose token it is, and where it may write."""

    def read(response: httpx.Response) -> Identity:
        told = response.json()
        namespaces = [place["name"] for place in told["orgs"]]
        return Identity(
            owner=told["name"], writes=told["auth"]["accessToken"]["role"] == "write", namespaces=namespaces
        )

    return Call("GET", "/api/whoami-v2", read)


def create_token(
    owner: str, grants: Mapping[str, Sequence[str]], *, name: str = "", days: float | None = None
) -> Call[NewTokenOut]:
    """Make a token with scopes by namespace; its secret is in the answer and nowhere else."""
    body = {"owner": owner, "grants": {key: list(value) for key, value in grants.items()}, "name": name, "days": days}
    return call("POST", "/tokens", NewTokenOut, json=body)


def tokens(*, owner: str | None = None) -> Call[list[TokenOut]]:
    """The tokens, newest first."""
    return call("GET", "/tokens", list[TokenOut], query={"owner": owner})


def revoke_token(token: int) -> Call[TokenOut]:
    """End a token at once."""
    return call("DELETE", f"/tokens/{token}", TokenOut)


def quotas() -> Call[list[QuotaOut]]:
    """The namespaces that have a quota."""
    return call("GET", "/quotas", list[QuotaOut])


def quota(namespace: str) -> Call[QuotaOut]:
    """What a namespace holds and what it may hold."""
    return call("GET", f"/quotas/{namespace}", QuotaOut)


def set_quota(namespace: str, *, max_bytes: int | None = None, max_versions: int | None = None) -> Call[QuotaOut]:
    """Say what a namespace may hold; None for any amount."""
    return call("PUT", f"/quotas/{namespace}", QuotaOut, json={"max_bytes": max_bytes, "max_versions": max_versions})


def audit(
    *,
    target: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    limit: int = 100,
    before: int | None = None,
) -> Call[list[AuditOut]]:
    """Who changed what, newest first; `before` is the id of an entry from which to go on."""
    query = {"target": target, "actor": actor, "action": action, "limit": limit, "before": before}
    return call("GET", "/audit", list[AuditOut], query=query)
