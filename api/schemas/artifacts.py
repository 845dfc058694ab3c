"""Artifacts as the API and `--json` show them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from graftwork.registry.catalog import Artifact


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
            created_at=artifact.created_at,
            updated_at=latest.created_at,
        )
