"""Aliases and their moves."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, model_validator

from graftwork.registry.catalog.aliases import AliasEntry, AliasMove


class AliasOut(BaseModel):
    """Where an alias points, and since when."""

    alias: str
    digest: str
    updated_at: datetime

    @classmethod
    def of(cls, entry: AliasEntry) -> AliasOut:
        """What there is to say about `entry`."""
        return cls(alias=entry.alias, digest=entry.digest, updated_at=entry.updated_at)


class AliasMoveOut(BaseModel):
    """One move of an alias: created when `before` is null, removed when `after` is."""

    alias: str
    before: str | None
    after: str | None
    before_ref: str | None = Field(description="the version it was at, `ns/name@v2`")
    after_ref: str | None = Field(description="the version it is at since, `ns/name@v3`")
    actor: str
    reason: str
    moved_at: datetime

    @classmethod
    def of(cls, move: AliasMove) -> AliasMoveOut:
        """What there is to say about `move`."""
        return cls(
            alias=move.alias,
            before=move.before,
            after=move.after,
            before_ref=move.before_ref,
            after_ref=move.after_ref,
            actor=move.actor,
            reason=move.reason,
            moved_at=move.moved_at,
        )


class AliasTarget(BaseModel):
    """Where an alias shall point, and what has to be true of it before."""

    model_config = ConfigDict(extra="forbid")

    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    version: int | str | None = Field(default=None, description="3, `v3`, another alias, or the start of a digest")
    expected: str | None = Field(
        default=None,
        description="the version it points to now, a digest or `v3`; null: it does not exist yet; absent: wherever",
    )
    reason: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _one_target(self) -> AliasTarget:
        if (self.digest is None) == (self.version is None):
            raise ValueError("give either digest or version")
        return self

    @property
    def revision(self) -> str:
        """The target as it is written after the `@` of a reference."""
        return self.digest or (f"v{self.version}" if isinstance(self.version, int) else str(self.version))

    @property
    def is_conditional(self) -> bool:
        """Whether `expected` was given, be it null."""
        return "expected" in self.model_fields_set
