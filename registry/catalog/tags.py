"""Tags: words that artifacts are found by."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import delete, func, insert, select

from graftwork.errors import InvalidName
from graftwork.registry.access.access import require, shown
from graftwork.registry.access.audit import record
from graftwork.registry.access.grants import Scope
from graftwork.registry.db import Database
from graftwork.registry.refs import PART, PART_EXPECTED, Name
from graftwork.registry.tables import ArtifactRow, TagRow
from graftwork.registry.versions.rows import find_artifact


class Tags:
    """The tags of all artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: Name) -> list[str]:
        """The tags of an artifact, in order. Raises ArtifactNotFound."""
        with self._database.read() as session:
            artifact = find_artifact(session, name)
            query = select(TagRow.tag).where(TagRow.artifact_id == artifact.id).order_by(TagRow.tag)
            return list(session.scalars(query))

    def set(self, name: Name, tags: Iterable[str], *, actor: str = "") -> list[str]:
        """Make `tags` the tags of an artifact. Raises ArtifactNotFound, InvalidName, Forbidden."""
        wanted = sorted(set(tags))
        for tag in wanted:
            if PART.fullmatch(tag) is None:
                raise InvalidName(value=tag, what="tag", expected=PART_EXPECTED)
        with self._database.write() as session:
            artifact = find_artifact(session, name)
            require(Scope.WRITE, artifact.namespace)
            session.execute(delete(TagRow).where(TagRow.artifact_id == artifact.id))
            for tag in wanted:
                session.execute(insert(TagRow).values(artifact_id=artifact.id, tag=tag))
            record(session, actor, "artifact.tags", str(name), {"tags": wanted})
        return wanted

    def counts(self) -> dict[str, int]:
        """Every tag and how many artifacts have it, in the order of the tags."""
        query = select(TagRow.tag, func.count()).join(ArtifactRow, ArtifactRow.id == TagRow.artifact_id).where(shown())
        with self._database.read() as session:
            rows = session.execute(query.group_by(TagRow.tag).order_by(TagRow.tag))
            return {row[0]: row[1] for row in rows}

    def artifacts(self, tag: str) -> list[Name]:
        """The artifacts that have the tag, in the order of their names."""
        query = select(ArtifactRow).join(TagRow, TagRow.artifact_id == ArtifactRow.id).where(TagRow.tag == tag, shown())
        with self._database.read() as session:
            return [Name(row.namespace, row.name) for row in session.scalars(query.order_by(ArtifactRow.key))]
