"""Artifacts as the API and `--json` show them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from graftwork.registry.catalog.catalog import Artifact


class ArtifactOut(BaseModel):
    """A named line of versions; `aliases` maps each alias to a digest, the other members tell of the newest version."""

    name: str
    kind: str
    versions: int
    ref: str
    digest: str
    base: str | None
    size: int
    aliases: dict[str, str]
    private: bool = Field(description="whether it is there only for those who may read in its namespace")
    quarantined: bool = Field(description="whether the newest version is")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactOut:
        """What there is to say about `artifact`."""
        latest = artifact.latest
        return cls(
            name=str(artifact.name),
            kind=artifact.kind,
            versions=artifact.versions,
            ref=latest.ref,
            digest=latest.digest,
            base=latest.base,
            size=latest.size,
            aliases=dict(artifact.aliases),
            private=artifact.private,
            quarantined=artifact.quarantined,
            created_at=artifact.created_at,
            updated_at=latest.created_at,
        )


class ArtifactChange(BaseModel):
    """What is to be different about an artifact."""

    model_config = ConfigDict(extra="forbid")

    private: bool = Field(description="hide it from whoever may not read in its namespace, or show it to all")
