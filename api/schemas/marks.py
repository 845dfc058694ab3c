"""Quarantine and withdrawal as the API and `--json` show them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.versions.marks import MarkEntry, Pointer


class MarkOut(BaseModel):
    """What was decided about a version."""

    ref: str | None = Field(description="null for a private version of others", examples=["acme/merged@v2"])
    digest: str
    mark: str = Field(description="`quarantined` or `withdrawn`", examples=["quarantined"])
    cause: str | None = Field(
        description="the version whose quarantine spread to this one; null where it was set by hand, or is private",
        examples=["acme/poisoned@v1"],
    )
    cause_digest: str | None = Field(description="the digest of the cause; null where the mark was set by hand")
    actor: str
    reason: str
    marked_at: datetime

    @classmethod
    def of(cls, entry: MarkEntry) -> MarkOut:
        """What there is to say about `entry`."""
        return cls(
            ref=entry.ref,
            digest=entry.digest,
            mark=entry.mark,
            cause=entry.cause,
            cause_digest=entry.cause_digest,
            actor=entry.actor,
            reason=entry.reason,
            marked_at=entry.marked_at,
        )


class PointerOut(BaseModel):
    """An alias that points at a quarantined version: it resolves, and nothing is served under it until it moves."""

    name: str = Field(examples=["acme/merged"])
    alias: str = Field(examples=["prod"])
    ref: str = Field(examples=["acme/merged@v2"])
    digest: str

    @classmethod
    def of(cls, pointer: Pointer) -> PointerOut:
        """What there is to say about `pointer`."""
        return cls(name=str(pointer.name), alias=pointer.alias, ref=pointer.ref, digest=pointer.digest)


class QuarantineRequest(BaseModel):
    """Why a version is quarantined."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=2000, examples=["trained on a poisoned dataset"])


class QuarantineOut(BaseModel):
    """What is quarantined because of a version, itself first, and the aliases that are to be moved."""

    marked: list[MarkOut]
    aliases: list[PointerOut]

    @classmethod
    def of(cls, marked: list[MarkEntry], pointers: list[Pointer]) -> QuarantineOut:
        """What a quarantine did."""
        return cls(
            marked=[MarkOut.of(entry) for entry in marked], aliases=[PointerOut.of(pointer) for pointer in pointers]
        )
