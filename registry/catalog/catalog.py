"""The catalog: which artifacts and versions there are, their files and their tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, exists, func, select
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, KindConflict, RevisionNotFound
from graftwork.registry.access.access import access, require, shown, shown_version
from graftwork.registry.access.grants import Scope
from graftwork.registry.catalog.aliases import move_alias
from graftwork.registry.catalog.registration import Entry, enter, kind_of
from graftwork.registry.db import Database, moment
from graftwork.registry.refs import Name, Ref, check_alias
from graftwork.registry.storage.blobs import BlobStore
from graftwork.registry.storage.deposits import Deposit, touch
from graftwork.registry.tables import AliasRow, ArtifactRow, BlobRow, MarkRow, TensorRow, VersionRow
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.marks import Mark
from graftwork.registry.versions.resolution import files_of, find_first, find_version
from graftwork.registry.versions.rows import (
    find_artifact,
    not_withdrawn,
    require_known,
    require_present,
    versions_of,
)
from graftwork.registry.versions.version import Kind, Parent, TensorRecord, Version


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
    private: bool
    """Whether it is there only for those who may read in its namespace."""
    quarantined: bool
    """Whether the newest version is."""


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

        `deposits` are the blobs that `Deposits.confirm` gave in the same transaction, which shares the name's key;
        without, they are looked for.
        The same content under the same name gives the version that is there, no longer withdrawn if it was. The base
        is a parent too, whether `parents` says so or not. Raises KindConflict, RevisionNotFound for an unknown base,
        CorruptBlob for a missing blob, InvalidName for a bad alias, Forbidden, QuotaExceeded.
        """
        require(Scope.WRITE, name.namespace)
        for alias in aliases:
            check_alias(alias)
        with self._database.write(session) as opened:
            if deposits is None:
                self._database.share(opened, name.key)
                deposits = self._touched(opened, files)
            if base is not None:
                require_known(opened, base)
            entry = Entry(name, kind, files, tensors, base, parents, metadata or {}, actor, deposits)
            artifact, version = enter(opened, entry)
            for alias in aliases:
                reason = f"registered v{version.number}"
                move_alias(opened, artifact, alias, version.digest, actor=actor, reason=reason)
            return version

    def is_private(self, name: Name) -> bool:
        """Whether the artifact is private; False for one that is not there."""
        with self._database.read() as session:
            return bool(session.scalar(select(ArtifactRow.private).where(ArtifactRow.key == name.key)))

    def check_kind(self, name: Name, kind: Kind) -> None:
        """Raise KindConflict if `name` holds versions of another kind."""
        with self._database.read() as session:
            actual = kind_of(session, name)
        if actual not in (None, kind):
            raise KindConflict(name=name, actual=f"of kind {actual}", offered=f"of kind {kind}")

    def resolve(self, ref: Ref | str) -> Version:
        """The version that `ref` points at now: an alias first, then a number, then a digest's first digits.

        Raises InvalidReference (malformed, or several versions start so), ArtifactNotFound, RevisionNotFound.
        """
        with self._database.read() as session:
            return find_version(session, Ref.parse(ref) if isinstance(ref, str) else ref)

    def by_digest(self, digest: str) -> Version:
        """The version with this content that was first: its name stays when others register the same.

        Those that were withdrawn come after those that were not. Raises RevisionNotFound.
        """
        with self._database.read() as session:
            return find_first(session, digest)

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
        columns = (getattr(ArtifactRow, name) for name in ("id", "namespace", "name", "kind", "private", "created_at"))
        query: Select[Any] = select(*columns).where(there, shown()).order_by(ArtifactRow.key).limit(limit)
        if kind is not None:
            query = query.where(ArtifactRow.kind == kind)
        if namespace is not None:
            query = query.where(ArtifactRow.namespace_key == namespace.lower())
        if search:
            query = query.where(ArtifactRow.key.contains(search.lower(), autoescape=True))
        if after is not None:
            query = query.where(ArtifactRow.key > after.lower())
        with self._database.read() as session:
            return _with_latest(session, session.execute(query).all())

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


def _tensor_record(file: FileEntry, row: Row[Any]) -> TensorRecord:
    shape = tuple(map(int, row.shape.split(","))) if row.shape else ()
    return TensorRecord(row.name, row.dtype, shape, file.path, row.begin_at, row.end_at, row.sha256.hex())


def _with_latest(session: Session, artifacts: Sequence[ArtifactRow | Row[Any]]) -> list[Artifact]:
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
    quarantined = exists().where(MarkRow.version_id == VersionRow.id, MarkRow.mark == Mark.QUARANTINED)
    more = (VersionRow.details, VersionRow.created_at, counted.c.total, quarantined.label("quarantined"))
    query = select(*columns, *more).join(counted, newest)
    latest = {row.artifact_id: row for row in session.execute(query)}
    files = files_of(session, [row.id for row in latest.values()])
    aliases: dict[int, dict[str, str]] = {}
    moved = select(AliasRow.artifact_id, AliasRow.alias, AliasRow.digest).where(AliasRow.artifact_id.in_(ids))
    for artifact_id, alias, digest in session.execute(moved.order_by(AliasRow.alias)):
        aliases.setdefault(artifact_id, {})[alias] = digest
    found = []
    for artifact in artifacts:
        if (row := latest.get(artifact.id)) is not None:
            name, kind = Name(artifact.namespace, artifact.name), Kind(artifact.kind)
            held, made = files.get(row.id, ()), moment(row.created_at)
            version = Version(name, kind, row.number, row.digest, row.base, held, row.details, made)
            pointers, since = aliases.get(artifact.id, {}), moment(artifact.created_at)
            marked = {"private": artifact.private, "quarantined": row.quarantined}
            found.append(Artifact(name, kind, since, row.total, version, pointers, **marked))
    return found
