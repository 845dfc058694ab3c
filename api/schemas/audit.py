"""Entries of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from graftwork.registry.access.audit import AuditEntry


class AuditOut(BaseModel):
    """One change to the registry."""

    id: int
    happened_at: datetime
    actor: str = Field(description="who made it", examples=["ada"])
    action: str = Field(examples=["alias.move"])
    target: str = Field(description="what was changed", examples=["acme/support@prod"])
    details: dict[str, Any]
    request: str | None = Field(description="the `X-Request-Id` of the request that it came with, if it did")

    @classmethod
    def of(cls, entry: AuditEntry) -> AuditOut:
        """What there is to say about `entry`."""
        return cls(
            id=entry.id,
            happened_at=entry.happened_at,
            actor=entry.actor,
            action=entry.action,
            target=entry.target,
            details=dict(entry.details),
            request=entry.request,
        )
