"""The catalog: which artifacts and versions there are, their files and their tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, exists, func, insert, or_, select
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, KindConflict
from graftwork.registry.aliases import move_alias
from graftwork.registry.audit import record
from graftwork.registry.blobs import BlobStore
from graftwork.registry.db import Database, clock
from graftwork.registry.formats.folder import check_path
from graftwork.registry.marks import inherit
from graftwork.registry.models import AliasRow, ArtifactRow, BlobRow, EdgeRow, FileRow, TensorRow, VersionRow
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.rows import find_artifact, find_version, newest_with, not_withdrawn, versions_of
from graftwork.registry.versions import (
    FileEntry,
    Kind,
    Parent,
    Relation,
    TensorRecord,
    Version,
    manifest_digest,
    moment,
)

__all__ = ["Artifact", "Catalog", "FileEntry", "Kind", "Parent", "Relation", "TensorRecord", "Version"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A named line of versions, and its newest one."""

    name: Name
    kind: Kind
    created_at: datetime
    versions: int
    latest: Version
    aliases: Mapping[str, str]
    """Alias to digest."""


class Catalog:
    """Versions go in, whole and once; nothing is ever changed."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs

    def register(
        self,
        name: Name,
        kind: Kind,
        files: Sequence[FileEntry],
        *,
        tensors: Sequence[TensorRecord] = (),
        base: str | None = None,
        parents: Sequence[Parent] = (),
        metadata: Mapping[str, object] | None = None,
        aliases: Sequence[str] = (),
        actor: str = "",
        session: Session | None = None,
    ) -> Version:
        """Add a version whose blobs are stored, and move `aliases` to it, in one transaction (`session`'s, if given).

        The same content under the same name gives the version that is there. The base is a parent too, whether
        `parents` says so or not. Raises KindConflict, RevisionNotFound for an unknown base, CorruptBlob for a missing
        blob, InvalidName for a bad alias.
        """
        for alias in aliases:
            check_alias(alias)
        digest = manifest_digest(kind, base, files)
        with self._database.write(session) as opened:
            self._database.exclude(opened)
            if base is not None:
                newest_with(opened, base)
            artifact = _artifact_for(opened, name, kind)
            row = opened.scalar(versions_of(artifact).where(VersionRow.digest == digest))
            if row is None:
                row = _add_version(opened, artifact, digest, base, metadata or {})
                self._add_files(opened, row, files, tensors)
                _add_edges(opened, row, kind, parents)
                inherit(opened, row, [*(parent.digest for parent in parents), *([] if base is None else [base])])
            for alias in aliases:
                move_alias(opened, artifact.id, alias, digest, actor=actor, reason=f"registered v{row.number}")
            opened.flush()
            opened.refresh(row)
            return Version.from_row(row)

    def is_private(self, name: Name) -> bool:
        """Whether the artifact is private; False for one that is not there."""
        with self._database.read() as session:
            return bool(session.scalar(select(ArtifactRow.private).where(ArtifactRow.key == name.key)))

    def set_private(self, name: Name, private: bool, *, actor: str = "") -> None:
        """Hide an artifact from whoever may not read in its namespace, or show it to all. Raises ArtifactNotFound."""
        with self._database.write() as session:
            find_artifact(session, name).private = private
            record(session, actor, "artifact.private", str(name), {"private": private})

    def check_kind(self, name: Name, kind: Kind) -> None:
        """Raise KindConflict if `name` holds versions of another kind."""
        with self._database.read() as session:
            row = session.scalar(select(ArtifactRow).where(ArtifactRow.key == name.key))
            if row is not None:
                _check_kind(row, name, kind)

    def resolve(self, ref: Ref | str) -> Version:
        """The version that `ref` points at now: an alias first, then a number, then a digest's first digits.

        Raises InvalidReference (malformed, or several versions start so), ArtifactNotFound, RevisionNotFound.
        """
        with self._database.read() as session:
            return Version.from_row(find_version(session, Ref.parse(ref) if isinstance(ref, str) else ref))

    def by_digest(self, digest: str) -> Version:
        """The newest version with this content, under whichever name. Raises RevisionNotFound."""
        with self._database.read() as session:
            return Version.from_row(newest_with(session, digest))

    def get(self, name: Name) -> Artifact:
        """One artifact. Raises ArtifactNotFound."""
        with self._database.read() as session:
            found = _with_latest(session, [find_artifact(session, name)])
            if not found:
                raise ArtifactNotFound(name=name)
            return found[0]

    def versions(self, name: Name) -> list[Version]:
        """The versions of an artifact, newest first. Raises ArtifactNotFound."""
        with self._database.read() as session:
            query = versions_of(find_artifact(session, name)).order_by(VersionRow.number.desc())
            return [Version.from_row(row) for row in session.scalars(query)]

    def tensors(self, version: Version) -> list[TensorRecord]:
        """The tensors of a version, file by file in the order of their bytes."""
        columns = TensorRow.__table__.c
        query = (
            select(BlobRow.sha256.label("blob"), *columns)
            .join(BlobRow, BlobRow.id == columns.blob_id)
            .where(BlobRow.sha256.in_({file.sha256 for file in version.files}))
            .order_by(columns.blob_id, columns.position)
        )
        by_blob: dict[str, list[Row[Any]]] = {}
        with self._database.read() as session:
            for row in session.execute(query):
                by_blob.setdefault(row.blob, []).append(row)
        return [_tensor_record(file, row) for file in version.files for row in by_blob.get(file.sha256, ())]

    def list(
        self,
        kind: Kind | None = None,
        namespace: str | None = None,
        search: str | None = None,
        limit: int = 100,
        after: str | None = None,
        readable: Collection[str] | None = None,
    ) -> list[Artifact]:
        """At most `limit` artifacts in the order of their names, from the one that follows the name `after`.

        `search` is a part of the name. Case does not matter. Private ones are left out unless their namespace is among
        the `readable` ones, in lower case; None shows all.
        """
        there = exists().where(VersionRow.artifact_id == ArtifactRow.id, not_withdrawn())
        query = select(ArtifactRow).where(there).order_by(ArtifactRow.key).limit(limit)
        if kind is not None:
            query = query.where(ArtifactRow.kind == kind)
        if namespace is not None:
            query = query.where(func.lower(ArtifactRow.namespace) == namespace.lower())
        if search:
            query = query.where(ArtifactRow.key.contains(search.lower(), autoescape=True))
        if readable is not None:
            mine = func.lower(ArtifactRow.namespace).in_(readable)
            query = query.where(or_(ArtifactRow.private.is_(False), mine))
        if after is not None:
            query = query.where(ArtifactRow.key > after.lower())
        with self._database.read() as session:
            return _with_latest(session, session.scalars(query).all())

    def _add_files(
        self, session: Session, version: VersionRow, files: Sequence[FileEntry], tensors: Iterable[TensorRecord]
    ) -> None:
        by_file: dict[str, list[TensorRecord]] = {}
        for tensor in tensors:
            by_file.setdefault(tensor.file, []).append(tensor)
        for file in files:
            blob = session.scalar(select(BlobRow).where(BlobRow.sha256 == file.sha256))
            self._blobs.path(file.sha256)
            if blob is None:
                blob = BlobRow(sha256=file.sha256, size=file.size, created_at=clock())
                session.add(blob)
                session.flush()
                _add_tensors(session, blob, by_file.get(file.path, ()))
            session.add(FileRow(version_id=version.id, path=check_path(file.path), blob_id=blob.id))


def _artifact_for(session: Session, name: Name, kind: Kind) -> ArtifactRow:
    row = session.scalar(select(ArtifactRow).where(ArtifactRow.key == name.key))
    if row is None:
        row = ArtifactRow(key=name.key, namespace=name.namespace, name=name.name, kind=kind, created_at=clock())
        session.add(row)
        session.flush()
    _check_kind(row, name, kind)
    return row


def _check_kind(row: ArtifactRow, name: Name, kind: Kind) -> None:
    if row.kind != kind:
        raise KindConflict(name=name, actual=f"of kind {row.kind}", offered=f"of kind {kind}")


def _add_version(
    session: Session, artifact: ArtifactRow, digest: str, base: str | None, metadata: Mapping[str, object]
) -> VersionRow:
    newest = session.scalar(select(func.max(VersionRow.number)).where(VersionRow.artifact_id == artifact.id))
    row = VersionRow(
        artifact_id=artifact.id,
        number=(newest or 0) + 1,
        digest=digest,
        base=base,
        details=dict(metadata),
        created_at=clock(),
    )
    session.add(row)
    session.flush()
    return row


def _add_tensors(session: Session, blob: BlobRow, tensors: Iterable[TensorRecord]) -> None:
    rows = [
        {
            "blob_id": blob.id,
            "position": position,
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": ",".join(map(str, tensor.shape)),
            "begin_at": tensor.begin,
            "end_at": tensor.end,
            "sha256": bytes.fromhex(tensor.sha256),
        }
        for position, tensor in enumerate(tensors)
    ]
    if rows:
        session.execute(insert(TensorRow), rows)


def _add_edges(session: Session, version: VersionRow, kind: Kind, parents: Iterable[Parent]) -> None:
    ordered = sorted(parents, key=lambda parent: parent.position)
    if version.base is not None and all(parent.digest != version.base for parent in ordered):
        relation = Relation.ADAPTER_OF if kind is Kind.ADAPTER else Relation.BASE
        ordered.append(Parent(version.base, relation))
    session.add_all(
        EdgeRow(
            child_id=version.id,
            position=position,
            parent=parent.digest,
            relation=parent.relation,
            weight=parent.weight,
        )
        for position, parent in enumerate(ordered)
    )


def _tensor_record(file: FileEntry, row: Row[Any]) -> TensorRecord:
    shape = tuple(map(int, row.shape.split(","))) if row.shape else ()
    return TensorRecord(row.name, row.dtype, shape, file.path, row.begin_at, row.end_at, row.sha256.hex())


def _with_latest(session: Session, artifacts: Sequence[ArtifactRow]) -> list[Artifact]:
    """Three queries, however many artifacts; those of which every version was withdrawn are left out."""
    ids = [artifact.id for artifact in artifacts]
    counted = (
        select(VersionRow.artifact_id, func.max(VersionRow.number).label("newest"), func.count().label("total"))
        .where(VersionRow.artifact_id.in_(ids), not_withdrawn())
        .group_by(VersionRow.artifact_id)
        .subquery()
    )
    newest = (VersionRow.artifact_id == counted.c.artifact_id) & (VersionRow.number == counted.c.newest)
    latest = {
        row.artifact_id: (row, total)
        for row, total in session.execute(select(VersionRow, counted.c.total).join(counted, newest))
    }
    aliases: dict[int, dict[str, str]] = {}
    for alias in session.scalars(select(AliasRow).where(AliasRow.artifact_id.in_(ids)).order_by(AliasRow.alias)):
        aliases.setdefault(alias.artifact_id, {})[alias.alias] = alias.digest
    return [
        Artifact(
            name=Name(artifact.namespace, artifact.name),
            kind=Kind(artifact.kind),
            created_at=moment(artifact.created_at),
            versions=latest[artifact.id][1],
            latest=Version.from_row(latest[artifact.id][0]),
            aliases=aliases.get(artifact.id, {}),
        )
        for artifact in artifacts
        if artifact.id in latest
    ]
