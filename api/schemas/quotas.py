"""Quotas as the API and `--json` show them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.catalog.quotas import MOST, Quota


class QuotaIn(BaseModel):
    """What a namespace may hold; null, or absent, for any amount."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"max_bytes": 10_000_000_000}]})

    max_bytes: int | None = Field(default=None, ge=0, le=MOST, description="bytes of distinct files")
    max_versions: int | None = Field(default=None, ge=0, le=MOST, description="versions of all artifacts together")


class QuotaOut(BaseModel):
    """What a namespace may hold, and what it holds."""

    namespace: str
    max_bytes: int | None
    max_versions: int | None
    bytes: int = Field(description="of distinct files: one that several versions share counts once")
    versions: int

    @classmethod
    def of(cls, quota: Quota) -> QuotaOut:
        """What there is to say about `quota`."""
        return cls(
            namespace=quota.namespace,
            max_bytes=quota.max_bytes,
            max_versions=quota.max_versions,
            bytes=quota.bytes,
            versions=quota.versions,
        )
