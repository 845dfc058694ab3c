"""Who may do what, how much, and what they did."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Double, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from graftwork.registry.tables.table import Key, Table


class TokenRow(Table):
    """A bearer token, known by its SHA-256 only. `grants` maps namespaces (or `*`) to scopes."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(96))
    owner: Mapped[str] = mapped_column(String(96), index=True)
    grants: Mapped[dict[str, Any]]
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    last_used_at: Mapped[float | None]


class QuotaRow(Table):
    """How much a namespace may hold; null is no limit. `namespace` is in lower case."""

    __tablename__ = "quotas"

    namespace: Mapped[str] = mapped_column(String(96), primary_key=True)
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_versions: Mapped[int | None] = mapped_column(BigInteger)


class IdempotencyRow(Table):
    """The answer to a request that carried an Idempotency-Key, for whoever sends it again."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(96), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    request: Mapped[str] = mapped_column(String(64))
    response: Mapped[dict[str, Any] | None]
    created_at: Mapped[float] = mapped_column(Double, index=True)


class AuditRow(Table):
    """Something that somebody changed; rows are only ever added."""

    __tablename__ = "audit"
    __table_args__ = (Index(None, "target", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    happened_at: Mapped[float] = mapped_column(Double, index=True)
    actor: Mapped[str] = mapped_column(String(256))
    action: Mapped[str] = mapped_column(String(64))
    target: Mapped[str] = mapped_column(String(512))
    details: Mapped[dict[str, Any]]
    request_id: Mapped[str | None] = mapped_column(String(64))
