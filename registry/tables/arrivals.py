"""What is on its way in: uploads in parts, and the repositories that the Hub's clients commit to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Double, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from graftwork.registry.tables.table import Key, Table


class UploadRow(Table):
    """An upload in parts that is not complete. `intent` says what its files are to be registered as."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(96))
    namespace: Mapped[str] = mapped_column(String(96), index=True)
    intent: Mapped[dict[str, Any]]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float]
    touched_at: Mapped[float] = mapped_column(Double, index=True)


class UploadPartRow(Table):
    """A part of a file of an upload that is stored and verified."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(512), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)


class RepositoryRow(Table):
    """A repository of the Hub's protocol, from its creation on; the artifact appears with its first whole version."""

    __tablename__ = "repositories"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    key: Mapped[str] = mapped_column(String(193), unique=True)
    namespace: Mapped[str] = mapped_column(String(96))
    name: Mapped[str] = mapped_column(String(96))
    private: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[float]


class CommitRow(Table):
    """A commit to a repository: `tree` maps paths to blobs. `digest` is the version it was registered as, if whole."""

    __tablename__ = "commits"
    __table_args__ = (Index(None, "repository_id", "branch", "id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id"))
    branch: Mapped[str] = mapped_column(String(96))
    revision: Mapped[str] = mapped_column(String(40), index=True)
    parent: Mapped[str | None] = mapped_column(String(40))
    tree: Mapped[dict[str, Any]]
    digest: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(String(1024))
    created_at: Mapped[float]
