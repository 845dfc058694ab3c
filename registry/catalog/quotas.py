"""Quotas: how many versions and how many bytes a namespace may hold."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from graftwork.errors import InvalidName, InvalidRequest, QuotaExceeded
from graftwork.registry.access.audit import record
from graftwork.registry.db import Database
from graftwork.registry.refs import PART, PART_EXPECTED
from graftwork.registry.tables import ArtifactRow, BlobRow, FileRow, QuotaRow, VersionRow
from graftwork.registry.versions.rows import not_withdrawn

QUOTAS = QuotaRow.plain()
MOST = 2**63 - 1
"""What a database's integers hold."""
LOCK = select(QUOTAS).where(QUOTAS.c.namespace == bindparam("namespace")).with_for_update()


@dataclass(frozen=True, slots=True)
class Quota:
    """What a namespace may hold, None for any amount, and what it holds.

    Bytes are those of distinct files: a file that several versions share counts once.
    """

    namespace: str
    max_bytes: int | None
    max_versions: int | None
    bytes: int
    versions: int


@dataclass(frozen=True, slots=True)
class Stored:
    """How many distinct files are stored, and their bytes."""

    blobs: int
    bytes: int


class Quotas:
    """The quotas of all namespaces; one that has none may hold anything."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, namespace: str) -> Quota:
        """The quota of a namespace and what is used of it. Raises InvalidName."""
        key = _key(namespace)
        with self._database.read() as session:
            return _quota(session, key, session.get(QuotaRow, key))

    def list(self) -> list[Quota]:
        """Every namespace that has a quota, in the order of their names."""
        with self._database.read() as session:
            rows = session.scalars(select(QuotaRow).order_by(QuotaRow.namespace)).all()
            return [_quota(session, row.namespace, row) for row in rows]

    def set(
        self, namespace: str, *, max_bytes: int | None = None, max_versions: int | None = None, actor: str = ""
    ) -> Quota:
        """Give a namespace a quota, or none (None and None). What it holds already stays.

        Raises InvalidName, InvalidRequest.
        """
        key = _key(namespace)
        for field, most in (("max_bytes", max_bytes), ("max_versions", max_versions)):
            if most is not None and not 0 <= most <= MOST:
                raise InvalidRequest(field=field, reason=f"expected 0 to {MOST}")
        with self._database.write() as session:
            row = session.get(QuotaRow, key)
            if max_bytes is None and max_versions is None:
                if row is not None:
                    session.delete(row)
                    row = None
            else:
                row = session.merge(QuotaRow(namespace=key, max_bytes=max_bytes, max_versions=max_versions))
            record(session, actor, "quota.set", key, {"max_bytes": max_bytes, "max_versions": max_versions})
            session.flush()
            return _quota(session, key, row)

    def total(self) -> Stored:
        """What all namespaces hold together, and what garbage collection has not taken away yet."""
        query = select(func.count(), func.sum(BlobRow.size)).select_from(BlobRow)
        with self._database.read() as session:
            blobs, held = session.execute(query).one()
            return Stored(blobs=blobs, bytes=int(held or 0))

    def require_room(self, namespace: str, size: int) -> None:
        """Refuse what is still to come before it is sent: nothing more fits, or `size` bytes never will.

        Raises QuotaExceeded. A quota that has room now may be full when all has come: `require_within` decides.
        """
        with self._database.read() as session:
            row = session.get(QuotaRow, _key(namespace))
            if row is None:
                return
            quota = _quota(session, row.namespace, row)
        if quota.max_versions is not None and quota.versions >= quota.max_versions:
            raise _exceeded(quota.namespace, f"{quota.max_versions} versions", f"{quota.versions + 1}")
        if quota.max_bytes is not None and (quota.bytes >= quota.max_bytes or size > quota.max_bytes):
            raise _exceeded(quota.namespace, f"{quota.max_bytes} bytes", f"{quota.bytes + size}")


def require_within(session: Session, namespace: str) -> None:
    """Raise QuotaExceeded if the namespace holds more than it may, in the transaction that added to it."""
    # the lock makes whoever registers in the same namespace meanwhile count after this
    row = session.execute(LOCK, {"namespace": namespace.lower()}).one_or_none()
    if row is None:
        return
    if row.max_versions is not None and (versions := _versions(session, row.namespace)) > row.max_versions:
        raise _exceeded(namespace, f"{row.max_versions} versions", str(versions))
    if row.max_bytes is not None and (held := _bytes(session, row.namespace)) > row.max_bytes:
        raise _exceeded(namespace, f"{row.max_bytes} bytes", str(held))


def _exceeded(namespace: str, limit: str, actual: str) -> QuotaExceeded:
    return QuotaExceeded(namespace=namespace, limit=limit, actual=actual)


def _key(namespace: str) -> str:
    if PART.fullmatch(namespace) is None:
        raise InvalidName(value=namespace, what="namespace", expected=PART_EXPECTED)
    return namespace.lower()


def _quota(session: Session, key: str, row: QuotaRow | None) -> Quota:
    return Quota(
        namespace=key,
        max_bytes=None if row is None else row.max_bytes,
        max_versions=None if row is None else row.max_versions,
        bytes=_bytes(session, key),
        versions=_versions(session, key),
    )


def _versions(session: Session, key: str) -> int:
    query = (
        select(func.count())
        .select_from(VersionRow)
        .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
        .where(ArtifactRow.key.startswith(f"{key}/", autoescape=True), not_withdrawn())
    )
    return session.scalar(query) or 0


def _bytes(session: Session, key: str) -> int:
    blobs = (
        select(BlobRow.id, BlobRow.size)
        .join(FileRow, FileRow.blob_id == BlobRow.id)
        .join(VersionRow, VersionRow.id == FileRow.version_id)
        .join(ArtifactRow, ArtifactRow.id == VersionRow.artifact_id)
        .where(ArtifactRow.key.startswith(f"{key}/", autoescape=True), not_withdrawn())
        .distinct()
        .subquery()
    )
    return int(session.scalar(select(func.sum(blobs.c.size))) or 0)
