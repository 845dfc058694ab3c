"""The catalog: which artifacts and versions there are, their files and their tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, exists, func, insert, select
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, KindConflict, RevisionNotFound
from graftwork.registry.access import access, require, shown, shown_version
from graftwork.registry.aliases import move_alias
from graftwork.registry.audit import record
from graftwork.registry.blobs import BlobStore
from graftwork.registry.db import Database, clock
from graftwork.registry.deposits import Deposit, touch
from graftwork.registry.formats.folder import check_path
from graftwork.registry.grants import Scope
from graftwork.registry.marks import inherit, restore
from graftwork.registry.models import AliasRow, ArtifactRow, BlobRow, EdgeRow, FileRow, TensorRow, VersionRow
from graftwork.registry.quotas import require_within
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.rows import (
    find_artifact,
    find_version,
    newest_with,
    not_withdrawn,
    require_present,
    versions_of,
)
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
        deposits: Mapping[str, Deposit] | None = None,
    ) -> Version:
        """Add a version whose blobs are stored, and move `aliases` to it, in one transaction (`session`'s, if given).

        `deposits` are the blobs that `Deposits.confirm` gave in the same transaction; without, they are looked for.
        The same content under the same name gives the version that is there, no longer withdrawn if it was. The base
        is a parent too, whether `parents` says so or not. Raises KindConflict, RevisionNotFound for an unknown base,
        CorruptBlob for a missing blob, InvalidName for a bad alias, Forbidden, QuotaExceeded.
        """
        require(Scope.WRITE, name.namespace)
        for alias in aliases:
            check_alias(alias)
        digest = manifest_digest(kind, base, files)
        with self._database.write(session) as opened:
            self._database.share(opened, name.key)
            if base is not None:
                newest_with(opened, base)
            artifact = _artifact_for(opened, name, kind)
            blobs = self._touched(opened, files) if deposits is None else deposits
            row = opened.scalar(versions_of(artifact).where(VersionRow.digest == digest))
            if row is not None:
                restore(opened, row, actor)
            else:
                row = _add_version(opened, artifact, digest, base, metadata or {})
                _add_files(opened, row, files, tensors, blobs)
                _add_edges(opened, row, kind, parents)
                require_within(opened, artifact.namespace)
                made_of = [parent.digest for parent in parents if parent.relation != Relation.REBUILD_OF]
                inherit(opened, row, [*made_of, *([] if base is None else [base])])
                record(opened, actor, "version.register", f"{name}@v{row.number}", {"digest": digest, "kind": kind})
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
        """Hide an artifact from whoever may not read in its namespace, or show it to all.

        Raises Forbidden, ArtifactNotFound.
        """
        with self._database.write() as session:
            require(Scope.WRITE, name.namespace)
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

    def require_shown(self, digests: Collection[str]) -> None:
        """Raise RevisionNotFound if any of these versions is there only under names that are private to others."""
        if not digests or access.get().visible is None:
            return
        query = select(VersionRow.digest).where(VersionRow.digest.in_(digests), shown_version())
        with self._database.read() as session:
            hidden = sorted(set(digests) - set(session.scalars(query)))
        if hidden:
            raise RevisionNotFound(name="The registry", revision=hidden[0], known="other digests only")

    def require_present(self, version: Version) -> None:
        """Raise VersionWithdrawn unless the version, or the same content under another name, is still there."""
        with self._database.read() as session:
            require_present(session, version.digest)

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
    ) -> list[Artifact]:
        """At most `limit` artifacts in the order of their names, from the one that follows the name `after`.

        `search` is a part of the name. Case does not matter. Private ones of others are left out.
        """
        there = exists().where(VersionRow.artifact_id == ArtifactRow.id, not_withdrawn())
        query = select(ArtifactRow).where(there, shown()).order_by(ArtifactRow.key).limit(limit)
        if kind is not None:
            query = query.where(ArtifactRow.kind == kind)
        if namespace is not None:
            query = query.where(ArtifactRow.namespace_key == namespace.lower())
        if search:
            query = query.where(ArtifactRow.key.contains(search.lower(), autoescape=True))
        if after is not None:
            query = query.where(ArtifactRow.key > after.lower())
        with self._database.read() as session:
            return _with_latest(session, session.scalars(query).all())

    def _touched(self, session: Session, files: Sequence[FileEntry]) -> Mapping[str, Deposit]:
        """The blobs of `files`, all of them stored. Raises CorruptBlob for one that is not."""
        found = touch(session, [(file.sha256, file.size, 0) for file in _unique(files)], stored=False)
        fresh = [deposit for deposit in found.values() if not deposit.stored]
        for deposit in fresh:
            self._blobs.path(deposit.sha256, deposit.generation)
        confirmed = touch(session, [(each.sha256, each.size, each.generation) for each in fresh], stored=True)
        return {**found, **confirmed}


def _unique(files: Iterable[FileEntry]) -> Iterable[FileEntry]:
    return {file.sha256: file for file in files}.values()


def _add_files(
    session: Session,
    version: VersionRow,
    files: Sequence[FileEntry],
    tensors: Iterable[TensorRecord],
    blobs: Mapping[str, Deposit],
) -> None:
    by_file: dict[str, list[TensorRecord]] = {}
    for tensor in tensors:
        by_file.setdefault(tensor.file, []).append(tensor)
    indexed = {blobs[file.sha256].id for file in files if file.path in by_file}
    if indexed:
        indexed = set(session.scalars(select(TensorRow.blob_id).where(TensorRow.blob_id.in_(indexed)).distinct()))
    for file in files:
        blob_id = blobs[file.sha256].id
        if blob_id not in indexed and file.path in by_file:
            _add_tensors(session, blob_id, by_file[file.path])
            indexed.add(blob_id)
    rows = [{"version_id": version.id, "path": check_path(f.path), "blob_id": blobs[f.sha256].id} for f in files]
    if rows:
        session.execute(insert(FileRow), rows)


def _artifact_for(session: Session, name: Name, kind: Kind) -> ArtifactRow:
    row = session.scalar(select(ArtifactRow).where(ArtifactRow.key == name.key))
    if row is None:
        row = ArtifactRow(
            key=name.key,
            namespace_key=name.namespace.lower(),
            namespace=name.namespace,
            name=name.name,
            kind=kind,
            created_at=clock(),
        )
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


def _add_tensors(session: Session, blob_id: int, tensors: Iterable[TensorRecord]) -> None:
    rows = [
        {
            "blob_id": blob_id,
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
    """Four queries, however many artifacts; those of which every version was withdrawn are left out.

    Plain rows: a page of a hundred as objects that the session tracks takes three times as long.
    """
    ids = [artifact.id for artifact in artifacts]
    counted = (
        select(VersionRow.artifact_id, func.max(VersionRow.number).label("newest"), func.count().label("total"))
        .where(VersionRow.artifact_id.in_(ids), not_withdrawn())
        .group_by(VersionRow.artifact_id)
        .subquery()
    )
    newest = (VersionRow.artifact_id == counted.c.artifact_id) & (VersionRow.number == counted.c.newest)
    columns = (VersionRow.id, *(getattr(VersionRow, name) for name in ("artifact_id", "number", "digest", "base")))
    query = select(*columns, VersionRow.details, VersionRow.created_at, counted.c.total).join(counted, newest)
    latest = {row.artifact_id: row for row in session.execute(query)}
    files: dict[int, list[FileEntry]] = {}
    columns = (FileRow.version_id, FileRow.path, BlobRow.sha256, BlobRow.size, BlobRow.generation)
    stored = select(*columns).join(BlobRow, BlobRow.id == FileRow.blob_id).order_by(FileRow.version_id, FileRow.path)
    newest_ids = [row.id for row in latest.values()]
    for file in session.execute(stored.where(FileRow.version_id.in_(newest_ids))):
        files.setdefault(file.version_id, []).append(FileEntry(file.path, file.sha256, file.size, file.generation))
    aliases: dict[int, dict[str, str]] = {}
    moved = select(AliasRow.artifact_id, AliasRow.alias, AliasRow.digest).where(AliasRow.artifact_id.in_(ids))
    for artifact_id, alias, digest in session.execute(moved.order_by(AliasRow.alias)):
        aliases.setdefault(artifact_id, {})[alias] = digest
    found = []
    for artifact in artifacts:
        if (row := latest.get(artifact.id)) is not None:
            name, kind = Name(artifact.namespace, artifact.name), Kind(artifact.kind)
            held, made = tuple(files.get(row.id, ())), moment(row.created_at)
            version = Version(name, kind, row.number, row.digest, row.base, held, row.details, made)
            since = moment(artifact.created_at)
            found.append(Artifact(name, kind, since, row.total, version, aliases.get(artifact.id, {})))
    return found
