"""The tables of the registry. SQLite and PostgreSQL hold the same schema.

Times are seconds since 1970 on the database's clock. Digests are lower-case hexadecimal SHA-256.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_REVISION = "0001"
"""The newest migration. An opened registry is brought to it."""

QUEUED = text("state = 'queued'")
RUNNING = text("state = 'running'")
LIVE = text("state IN ('queued', 'running')")

Key = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    """What every table has: constraints named the same way on every database."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        dict[str, Any]: JSON,
        float: Double,
    }


class ArtifactRow(Table):
    """A named line of versions of one kind. `key` is the name in lower case."""

    __tablename__ = "artifacts"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[str] = mapped_column(String(193), unique=True)
    namespace: Mapped[str] = mapped_column(String(96))
    name: Mapped[str] = mapped_column(String(96))
    kind: Mapped[str] = mapped_column(String(32), index=True)
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
    """Bytes in the blob store that a version refers to."""

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
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


class ScheduleRow(Table):
    """A job to enqueue again and again; `next_at` moves by compare-and-set, so one process wins a tick."""

    __tablename__ = "schedules"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(193), unique=True)
    cron: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]]
    enabled: Mapped[bool] = mapped_column(Boolean)
    next_at: Mapped[float]
    created_at: Mapped[float]


class JobRow(Table):
    """Work held by lease. `fence` grows with every claim, so that a worker that lost its lease cannot write."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("schedule_id", "fire_at"),
        Index("ix_jobs_queued", "priority", "run_at", "id", sqlite_where=QUEUED, postgresql_where=QUEUED),
        Index("ix_jobs_running", "lease_expires_at", sqlite_where=RUNNING, postgresql_where=RUNNING),
        Index("ix_jobs_live_key", "key", unique=True, sqlite_where=LIVE, postgresql_where=LIVE),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    payload: Mapped[dict[str, Any]]
    key: Mapped[str | None] = mapped_column(String(128))
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    run_at: Mapped[float]
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    lease_owner: Mapped[str | None] = mapped_column(String(128))
    lease_expires_at: Mapped[float | None]
    fence: Mapped[int]
    cancel_requested: Mapped[bool] = mapped_column(Boolean)
    progress: Mapped[float]
    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    schedule_id: Mapped[int | None] = mapped_column(ForeignKey("schedules.id"))
    fire_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(Double, index=True)
    finished_at: Mapped[float | None]


class EvaluationRow(Table):
    """A score of a version on a dataset."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    dataset: Mapped[str] = mapped_column(String(193))
    metric: Mapped[str] = mapped_column(String(96))
    value: Mapped[float]
    details: Mapped[dict[str, Any]]
    created_at: Mapped[float]
