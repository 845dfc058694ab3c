"""What there is: artifacts, their immutable versions, and the bytes of these."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from graftwork.registry.tables.table import Key, Table


class ArtifactRow(Table):
    """A named line of versions of one kind. `key` is the name in lower case, `namespace_key` its first half."""

    __tablename__ = "artifacts"
    __table_args__ = (Index(None, "namespace_key", "key"), Index(None, "kind", "key"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[str] = mapped_column(String(193), unique=True)
    namespace_key: Mapped[str] = mapped_column(String(96), server_default="")
    namespace: Mapped[str] = mapped_column(String(96))
    name: Mapped[str] = mapped_column(String(96))
    kind: Mapped[str] = mapped_column(String(32), index=True)
    private: Mapped[bool] = mapped_column(Boolean, server_default=false())
    created_at: Mapped[float]


class VersionRow(Table):
    """One immutable version. `digest` covers kind, base and files; two artifacts may hold the same one."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("artifact_id", "number"), UniqueConstraint("artifact_id", "digest"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64), index=True)
    base: Mapped[str | None] = mapped_column(String(64), index=True)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[float]

    artifact: Mapped[ArtifactRow] = relationship(lazy="joined", innerjoin=True)
    files: Mapped[list[FileRow]] = relationship(order_by="FileRow.path", lazy="selectin")


class BlobRow(Table):
    """Bytes that somebody stores, refers to, or referred to until garbage was collected. Rows are never deleted.

    `generation` counts how often the bytes were deleted; it is part of their place in the store, so that a late
    deletion never meets a fresh copy. `stored` says that the bytes of this generation are known to be there.
    `touched_at` is when somebody last was about to use them; null since they were deleted. Nobody refers to a
    condemned blob, unless by a reference that touches it at the same time.
    """

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    generation: Mapped[int] = mapped_column(server_default=text("0"))
    stored: Mapped[bool] = mapped_column(Boolean, server_default=false())
    touched_at: Mapped[float | None] = mapped_column(Double, index=True)
    condemned_at: Mapped[float | None] = mapped_column(Double, index=True)
    created_at: Mapped[float]


class FileRow(Table):
    """A file of a version: a path and the blob that holds its bytes."""

    __tablename__ = "files"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), index=True)

    blob: Mapped[BlobRow] = relationship(lazy="joined", innerjoin=True)


class TensorRow(Table):
    """A tensor of a safetensors blob, in file order. `shape` is written `4096,4096`; `sha256` is of its bytes."""

    __tablename__ = "tensors"

    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(512))
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[str] = mapped_column(String(96))
    begin_at: Mapped[int] = mapped_column(BigInteger)
    end_at: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32))


class AliasRow(Table):
    """The one mutable thing: a name for one of an artifact's versions."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["artifact_id", "digest"], ["versions.artifact_id", "versions.digest"]),
        Index(None, "artifact_id", "digest"),
    )

    artifact_id: Mapped[int] = mapped_column(Key, primary_key=True)
    alias: Mapped[str] = mapped_column(String(96), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    updated_at: Mapped[float]


class AliasMoveRow(Table):
    """A move of an alias; rows are only ever added. `before` is null when it was created, `after` when deleted."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index(None, "artifact_id", "alias"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"))
    alias: Mapped[str] = mapped_column(String(96))
    before: Mapped[str | None] = mapped_column(String(64))
    after: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(256))
    reason: Mapped[str] = mapped_column(Text)
    moved_at: Mapped[float]


class EdgeRow(Table):
    """What a version was made from. The parent is pinned by digest and need not be in this registry."""

    __tablename__ = "edges"

    child_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[str] = mapped_column(String(64), index=True)
    relation: Mapped[str] = mapped_column(String(32))
    weight: Mapped[float | None]


class TagRow(Table):
    """A word that artifacts are found by."""

    __tablename__ = "tags"

    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(96), primary_key=True, index=True)


class MarkRow(Table):
    """What was decided about a version after it was made: `quarantined` or `tombstoned`.

    `cause_id` is the version whose own mark spread to this one; null where the mark was set by hand.
    """

    __tablename__ = "marks"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    mark: Mapped[str] = mapped_column(String(16), primary_key=True)
    cause_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"), index=True)
    actor: Mapped[str] = mapped_column(String(256))
    reason: Mapped[str] = mapped_column(Text)
    marked_at: Mapped[float]


class EvaluationRow(Table):
    """A score of a version on a dataset, or by a command of the operator's.

    `key` is a digest of all that the value depends on, so that the same evaluation is found and not run again.
    """

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    dataset: Mapped[str] = mapped_column(String(193))
    dataset_digest: Mapped[str | None] = mapped_column(String(64))
    metric: Mapped[str] = mapped_column(String(96))
    value: Mapped[float]
    job_id: Mapped[str | None] = mapped_column(String(32))
    key: Mapped[str] = mapped_column(String(64), server_default="", index=True)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[float]
