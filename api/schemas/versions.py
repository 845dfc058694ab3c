"""Versions as the API and `--json` show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from math import prod
from typing import Any, Self

from pydantic import BaseModel, Field

from graftwork.api.schemas.evaluations import EvaluationOut
from graftwork.api.schemas.marks import MarkOut
from graftwork.registry.registry import Registry
from graftwork.registry.versions.version import TensorRecord, Version


class FileOut(BaseModel):
    """A file of a version."""

    path: str
    sha256: str
    size: int


class VersionOut(BaseModel):
    """An immutable version of an artifact."""

    name: str
    kind: str
    number: int
    ref: str
    digest: str
    revision: str
    base: str | None
    size: int
    created_at: datetime
    files: list[FileOut]
    metadata: dict[str, Any]

    @classmethod
    def of(cls, version: Version, **more: Any) -> Self:
        """What there is to say about `version`; `more` are the members of a subclass."""
        return cls(
            name=str(version.name),
            kind=version.kind,
            number=version.number,
            ref=version.ref,
            digest=version.digest,
            revision=version.revision,
            base=version.base,
            size=version.size,
            created_at=version.created_at,
            files=[FileOut(path=file.path, sha256=file.sha256, size=file.size) for file in version.files],
            metadata=dict(version.metadata),
            **more,
        )


class RegisteredOut(VersionOut):
    """The version that an upload has become."""

    already_there: bool = Field(default=False, description="whether the same content had this name before")


class TensorsOut(BaseModel):
    """What the tensors of a version amount to; `dtypes` counts tensors by dtype."""

    count: int
    parameters: int
    dtypes: dict[str, int]

    @classmethod
    def of(cls, tensors: Sequence[TensorRecord]) -> TensorsOut:
        """The sums over `tensors`."""
        return cls(
            count=len(tensors),
            parameters=sum(prod(tensor.shape) for tensor in tensors),
            dtypes=dict(Counter(tensor.dtype for tensor in tensors).most_common()),
        )


class ParentOut(BaseModel):
    """A version that another one was made from; `ref` is absent when it is not in this registry, or not to be seen."""

    digest: str
    ref: str | None
    relation: str
    weight: float | None
    position: int


class VersionDetail(VersionOut):
    """A version with its tensors summed up, its parents, its marks, and the aliases that point to it."""

    tensors: TensorsOut
    parents: list[ParentOut]
    aliases: list[str]
    private: bool = Field(description="whether it is there only for those who may read in its namespace")
    marks: list[MarkOut] = Field(description="whether it is quarantined, and why")
    evaluations: list[EvaluationOut] = Field(description="what is known of how well it does, newest first")

    @classmethod
    def read(cls, registry: Registry, version: Version) -> VersionDetail:
        """Everything that `registry` knows about `version`."""
        graph = registry.lineage.graph(version.digest, depth=1, direction="up")
        refs = {node.digest: node.refs[0] for node in graph.nodes if node.refs}
        parents = [
            ParentOut(
                digest=edge.parent,
                ref=refs.get(edge.parent),
                relation=edge.relation,
                weight=edge.weight,
                position=edge.position,
            )
            for edge in graph.edges
        ]
        aliases = registry.aliases.get(version.name)
        return cls.of(
            version,
            tensors=TensorsOut.of(registry.catalog.tensors(version)),
            parents=parents,
            aliases=[alias for alias, entry in aliases.items() if entry.digest == version.digest],
            private=registry.catalog.is_private(version.name),
            marks=[MarkOut.of(entry) for entry in registry.marks.of(version)],
            evaluations=[EvaluationOut.of(one) for one in registry.evaluations.of([version.digest])],
        )
