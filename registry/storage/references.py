"""Who refers to a blob: versions that are not withdrawn, uploads in parts, and commits that are no version yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import Session

from graftwork.registry.db import clock
from graftwork.registry.tables import BlobRow, CommitRow, FileRow, MarkRow, UploadPartRow
from graftwork.registry.versions.rows import WITHDRAWN

DIGEST_LENGTH = 64


def is_referred_to(grace: float) -> ColumnElement[bool]:
    """The condition that a file or a part needs a blob; versions count for `grace` seconds after they are withdrawn."""
    gone = exists().where(
        MarkRow.version_id == FileRow.version_id, MarkRow.mark == WITHDRAWN, MarkRow.marked_at <= clock() - grace
    )
    in_version = exists().where(FileRow.blob_id == BlobRow.id, ~gone)
    in_upload = exists().where(UploadPartRow.sha256 == BlobRow.sha256)
    return or_(in_version, in_upload)


def drafted(session: Session) -> set[str]:
    """The digests of everything in the trees of commits that were not registered as a version."""
    trees = session.scalars(select(CommitRow.tree).where(CommitRow.digest.is_(None)))
    return {text for tree in trees for text in _texts(tree) if len(text) == DIGEST_LENGTH}


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for entry in value.values():
                yield from _texts(entry)
        case list():
            for entry in value:
                yield from _texts(entry)
