"""Models that can be asked for, as OpenAI's clients read them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from graftwork.registry.catalog.catalog import Artifact


class ModelOut(BaseModel):
    """A base, a checkpoint or an adapter; `root` is its newest version, `parent` the base of an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: str | None

    @classmethod
    def of(cls, artifact: Artifact, parent: str | None) -> ModelOut:
        """How `artifact` is asked for."""
        return cls(
            id=str(artifact.name),
            created=int(artifact.created_at.timestamp()),
            owned_by=artifact.name.namespace,
            root=artifact.latest.ref,
            parent=parent,
        )


class ModelList(BaseModel):
    """Every model that can be asked for."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
