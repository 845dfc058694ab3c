"""Taking a version in: what the transaction that registers it says to the database, in few statements.

Small adapters come a hundred a second, and the database answers faster than an object is mapped: therefore the tables
themselves are spoken to here, by statements that are made once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Insert, Row, bindparam, func, insert, select
from sqlalchemy.orm import Session

from graftwork.errors import KindConflict
from graftwork.registry.access.audit import record
from graftwork.registry.catalog.quotas import require_within
from graftwork.registry.db import clock, moment
from graftwork.registry.formats.folder import check_path
from graftwork.registry.refs import Name
from graftwork.registry.storage.deposits import INSERTS, Deposit
from graftwork.registry.tables import ArtifactRow, EdgeRow, FileRow, TensorRow, VersionRow
from graftwork.registry.versions.manifest import FileEntry, manifest_digest
from graftwork.registry.versions.marks import inherit, restore
from graftwork.registry.versions.version import Kind, Parent, Relation, TensorRecord, Version

ARTIFACTS, VERSIONS = ArtifactRow.plain(), VersionRow.plain()
FIND_ARTIFACT = select(ARTIFACTS.c.id, ARTIFACTS.c.namespace, ARTIFACTS.c.name, ARTIFACTS.c.kind).where(
    ARTIFACTS.c.key == bindparam("key")
)
NEWEST = select(func.max(VERSIONS.c.number)).where(VERSIONS.c.artifact_id == bindparam("artifact"))
FIND_SAME = select(VersionRow).where(
    VersionRow.artifact_id == bindparam("artifact"), VersionRow.digest == bindparam("digest")
)
ADD_ARTIFACT = (
    insert(ArtifactRow.plain())
    .values(created_at=clock())
    .returning(ARTIFACTS.c.id, ARTIFACTS.c.namespace, ARTIFACTS.c.name, ARTIFACTS.c.kind)
)
ADD_VERSION = insert(VersionRow.plain()).values(created_at=clock()).returning(VERSIONS.c.id, VERSIONS.c.created_at)
ADD_FILES, ADD_EDGES = insert(FileRow.plain()), insert(EdgeRow.plain())
ADD_TENSORS: Mapping[str, Insert] = {
    # those of a blob never differ, whoever brings it
    dialect: of(TensorRow.plain()).on_conflict_do_nothing()
    for dialect, of in INSERTS.items()
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A version as it is to be registered; `blobs` are the deposits of its files by their digests."""

    name: Name
    kind: Kind
    files: Sequence[FileEntry]
    tensors: Iterable[TensorRecord]
    base: str | None
    parents: Sequence[Parent]
    metadata: Mapping[str, object]
    actor: str
    blobs: Mapping[str, Deposit]


def kind_of(session: Session, name: Name) -> Kind | None:
    """The kind of the artifact of that name; None where there is none."""
    row = session.execute(FIND_ARTIFACT, {"key": name.key}).one_or_none()
    return None if row is None else Kind(row.kind)


def enter(session: Session, entry: Entry) -> tuple[int, Version]:
    """Add the version to its artifact, which is made where it is not there. Returns the artifact's row and the version.

    The same content under the same name is the version that is there, no longer withdrawn if it was. Raises
    KindConflict, QuotaExceeded, UnsafeFile for a path that cannot be in a version.
    """
    digest = manifest_digest(entry.kind, entry.base, entry.files)
    name = entry.name
    artifact = session.execute(FIND_ARTIFACT, {"key": name.key}).one_or_none()
    number = 1
    if artifact is None:
        spelt = {"key": name.key, "namespace_key": name.namespace.lower(), "namespace": name.namespace}
        artifact = session.execute(ADD_ARTIFACT, {**spelt, "name": name.name, "kind": entry.kind}).one()
    else:
        if artifact.kind != entry.kind:
            raise KindConflict(name=name, actual=f"of kind {artifact.kind}", offered=f"of kind {entry.kind}")
        same = session.scalar(FIND_SAME, {"artifact": artifact.id, "digest": digest})
        if same is not None:
            restore(session, same, entry.actor)
            return artifact.id, Version.from_row(same)
        number += session.scalar(NEWEST, {"artifact": artifact.id}) or 0
    return artifact.id, _add(session, entry, artifact, digest, number)


def _add(session: Session, entry: Entry, artifact: Row[Any, Any, Any, Any], digest: str, number: int) -> Version:
    columns = {"artifact_id": artifact.id, "number": number, "digest": digest, "base": entry.base}
    row = session.execute(ADD_VERSION, {**columns, "details": dict(entry.metadata)}).one()
    _add_tensors(session, entry)
    _add_files(session, row.id, entry)
    _add_edges(session, row.id, entry)
    require_within(session, artifact.namespace)
    made_of = [parent.digest for parent in entry.parents if parent.relation != Relation.REBUILD_OF]
    inherit(session, row.id, [digest, *made_of, *([] if entry.base is None else [entry.base])])
    details = {"digest": digest, "kind": entry.kind}
    record(session, entry.actor, "version.register", f"{entry.name}@v{number}", details)
    generations = {sha256: deposit.generation for sha256, deposit in entry.blobs.items()}
    files = (FileEntry(file.path, file.sha256, file.size, generations[file.sha256]) for file in entry.files)
    return Version(
        name=Name(artifact.namespace, artifact.name),
        kind=entry.kind,
        number=number,
        digest=digest,
        base=entry.base,
        files=tuple(sorted(files, key=lambda file: file.path)),
        metadata=dict(entry.metadata),
        created_at=moment(row.created_at),
        is_new=True,
    )


def _add_tensors(session: Session, entry: Entry) -> None:
    a_file = {entry.blobs[file.sha256].id: file.path for file in entry.files}
    blob_of = {path: blob_id for blob_id, path in a_file.items()}
    positions: Counter[int] = Counter()
    rows = []
    for tensor in entry.tensors:
        if (blob_id := blob_of.get(tensor.file)) is not None:
            row = {"blob_id": blob_id, "position": positions[blob_id], "name": tensor.name, "dtype": tensor.dtype}
            row |= {"shape": ",".join(map(str, tensor.shape)), "begin_at": tensor.begin, "end_at": tensor.end}
            rows.append({**row, "sha256": bytes.fromhex(tensor.sha256)})
            positions[blob_id] += 1
    if rows:
        session.execute(ADD_TENSORS[session.get_bind().dialect.name], rows)


def _add_files(session: Session, version_id: int, entry: Entry) -> None:
    rows = [
        {"version_id": version_id, "path": check_path(file.path), "blob_id": entry.blobs[file.sha256].id}
        for file in entry.files
    ]
    if rows:
        session.execute(ADD_FILES, rows)


def _add_edges(session: Session, version_id: int, entry: Entry) -> None:
    ordered = sorted(entry.parents, key=lambda parent: parent.position)
    if entry.base is not None and all(parent.digest != entry.base for parent in ordered):
        relation = Relation.ADAPTER_OF if entry.kind is Kind.ADAPTER else Relation.BASE
        ordered.append(Parent(entry.base, relation))
    rows = [
        {
            "child_id": version_id,
            "position": position,
            "parent": parent.digest,
            "relation": parent.relation,
            "weight": parent.weight,
        }
        for position, parent in enumerate(ordered)
    ]
    if rows:
        session.execute(ADD_EDGES, rows)
