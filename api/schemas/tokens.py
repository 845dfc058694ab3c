"""Tokens as they are made and listed."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.access.grants import Scope
from graftwork.registry.access.tokens import Token

GRANTS = {"acme": ["write", "infer"], "public": ["read"]}


class TokenRequest(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    owner: str = Field(description="whom its actions are put down to", examples=["ada"])
    grants: dict[str, list[Scope]] = Field(description="scopes by namespace; `*` is every one", examples=[GRANTS])
    name: str = Field(default="", max_length=96, description="what it is for", examples=["nightly upload"])
    days: float | None = Field(default=None, gt=0, le=36500, description="how long it is good for; for ever if absent")


class TokenOut(BaseModel):
    """What is known of a token."""

    id: int
    name: str
    owner: str
    grants: dict[str, list[str]]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")

    @classmethod
    def of(cls, token: Token) -> TokenOut:
        """What there is to say about `token`."""
        return cls(
            id=token.id,
            name=token.name,
            owner=token.owner,
            grants=token.grants.as_json(),
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
            last_used_at=token.last_used_at,
        )


class NewTokenOut(TokenOut):
    """A token that was just made."""

    secret: str = Field(description="what the client sends as `Authorization: Bearer ...`; it is never shown again")
