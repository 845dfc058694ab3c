"""Garbage collection in two phases: bytes that nobody refers to are condemned, and deleted when they stayed so.

A blob is condemned when no version that counts, no upload and no draft refers to it and nobody touched it for the grace
period; a version counts until that long after it was withdrawn. A blob that was condemned for a second grace period is
deleted: one transaction raises its generation, and its bytes go once that is committed. Whoever stores or refers to a
blob touches its row in the same transaction, which revives it; so an upload meets either a blob that stays or the next
generation, at whatever moment the two meet. Source: docs/adr/0021-blobs-have-generations.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from graftwork.registry.access.access import access
from graftwork.registry.db import clock, moment
from graftwork.registry.registry import Registry
from graftwork.registry.storage.blobs import StoredBlob
from graftwork.registry.storage.deposits import INSERTS, delete_rows
from graftwork.registry.storage.references import drafted, is_referred_to
from graftwork.registry.storage.staging_area import STALE_SECONDS
from graftwork.registry.tables import BlobRow, MarkRow, VersionRow
from graftwork.registry.versions.rows import WITHDRAWN

T = TypeVar("T")
BATCH = 500
SHOWN = 1000
"""Findings that a report lists one by one; it counts the others."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to collect: a blob's digest or a path, its size in bytes, and why."""

    name: str
    size: int
    why: str


@dataclass(slots=True)
class Tally:
    """What a step of the collection found."""

    count: int = 0
    size: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count a finding, and list it while there is room."""
        self.count += 1
        self.size += finding.size
        if len(self.findings) < SHOWN:
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class Report:
    """What was collected, or would be where not `applied`."""

    applied: bool
    grace: float
    idle: float | None = None
    condemned: Tally = field(default_factory=Tally)
    """Blobs that nobody refers to from now on."""
    deleted: Tally = field(default_factory=Tally)
    """Blobs that stayed condemned."""
    orphans: Tally = field(default_factory=Tally)
    """Bytes in the store that the database does not count on."""
    scratch: Tally = field(default_factory=Tally)
    """Folders and transfers that dead processes left half written."""
    snapshots: Tally = field(default_factory=Tally)
    """Folders of versions that are gone."""
    uploads: Tally = field(default_factory=Tally)
    """Uploads in parts that were left alone."""

    @property
    def steps(self) -> dict[str, Tally]:
        """The tallies by name, in the order of the steps."""
        names = ("deleted", "condemned", "orphans", "scratch", "snapshots", "uploads")
        return {name: getattr(self, name) for name in names}

    @property
    def freed(self) -> int:
        """Bytes that are deleted."""
        return sum(tally.size for name, tally in self.steps.items() if name != "condemned")


def collect(
    registry: Registry,
    *,
    apply: bool = False,
    grace: float,
    idle: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Report:
    """Collect garbage, or with `apply` false only say what would go. Any number of processes may do it at once.

    grace: seconds that a blob stays after it was last touched, and again after it was condemned
    idle:  seconds after which an upload in parts goes that nobody goes on with; None keeps all
    check: called between steps; what it raises ends the collection, which may be taken up again at any time
    """
    report = Report(apply, grace, idle)
    for step in (_delete, _condemn, _orphans, _scratch, _snapshots, _uploads):
        step(registry, report, check)
        check()
    if apply and report.freed:
        registry.audit.record(access.get().owner, "gc.apply", "blobs", {"freed_bytes": report.freed})
    return report


def _delete(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    ripe = BlobRow.condemned_at <= clock() - report.grace
    for batch in _batches(registry, ripe):
        check()
        with registry.database.write() as session:
            _lock(session, batch)
            if report.applied:
                referred = update(BlobRow).where(BlobRow.id.in_(_ids(batch)), is_referred_to(report.grace))
                session.execute(referred.values(condemned_at=None).execution_options(synchronize_session=False))
                rows = session.execute(select(BlobRow.id, BlobRow.sha256).where(BlobRow.id.in_(_ids(batch)))).all()
                gone = delete_rows(session, rows, ripe, grace=report.grace)
            else:
                gone = [(row.sha256, row.generation) for row in _garbage(session, batch, report)]
        since = {row.sha256: row for row in batch}
        for sha256, generation in gone:
            row = since[sha256]
            assert row.condemned_at is not None  # noqa: S101
            why = f"condemned since {_shown(row.condemned_at)}"
            report.deleted.add(Finding(sha256, row.size, why))
            if report.applied:
                registry.blobs.remove(sha256, generation)


def _condemn(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    untouched = BlobRow.condemned_at.is_(None) & (BlobRow.touched_at <= clock() - report.grace)
    for batch in _batches(registry, untouched & ~is_referred_to(report.grace)):
        check()
        with registry.database.write() as session:
            _lock(session, batch)
            garbage = _garbage(session, batch, report)
            if report.applied:
                condemn = update(BlobRow).where(BlobRow.id.in_(_ids(garbage)), untouched)
                session.execute(condemn.values(condemned_at=clock()).execution_options(synchronize_session=False))
        for row in garbage:
            assert row.touched_at is not None  # noqa: S101
            why = f"nothing refers to it; last touched {_shown(row.touched_at)}"
            report.condemned.add(Finding(row.sha256, row.size, why))


def _batches(registry: Registry, condition: ColumnElement[bool]) -> Iterator[Sequence[BlobRow]]:
    """The rows that met the condition when it was asked, in the order of their ids."""
    last = 0
    while True:
        with registry.database.read() as session:
            query = select(BlobRow).where(condition, BlobRow.id > last).order_by(BlobRow.id).limit(BATCH)
            rows = session.scalars(query).all()
            session.expunge_all()
        if not rows:
            return
        yield rows
        last = rows[-1].id


def _lock(session: Session, rows: Sequence[BlobRow]) -> None:
    """Keep others from touching the rows until the transaction ends; in the order in which all lock them."""
    session.execute(
        select(BlobRow.id).where(BlobRow.id.in_(_ids(rows))).order_by(BlobRow.sha256).with_for_update()
    ).all()


def _garbage(session: Session, rows: Sequence[BlobRow], report: Report) -> list[BlobRow]:
    """Those of the rows that nobody refers to."""
    kept = drafted(session)
    query = select(BlobRow.id).where(BlobRow.id.in_(_ids(rows)), ~is_referred_to(report.grace))
    unreferred = set(session.scalars(query))
    return [row for row in rows if row.id in unreferred and row.sha256 not in kept]


def _ids(rows: Sequence[BlobRow]) -> list[int]:
    return [row.id for row in rows]


def _orphans(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    """Bytes without a row, and those of generations that were given up when the process died that gave them up."""
    with registry.database.read() as session:
        now = session.scalar(select(clock())) or 0.0
    old = (blob for blob in registry.blobs.stored() if blob.since <= now - report.grace)
    for batch in _batched(old):
        check()
        for blob in _unknown(registry, batch):
            if report.applied:
                if not _disown(registry, blob):
                    continue
                registry.blobs.remove(blob.sha256, blob.generation)
            why = f"the database does not know it; stored {_shown(blob.since)}"
            report.orphans.add(Finding(blob.sha256, blob.size, why))


def _unknown(registry: Registry, blobs: Sequence[StoredBlob]) -> list[StoredBlob]:
    columns = (BlobRow.sha256, BlobRow.generation, BlobRow.touched_at)
    with registry.database.read() as session:
        query = select(*columns).where(BlobRow.sha256.in_({blob.sha256 for blob in blobs}))
        rows = {row.sha256: row for row in session.execute(query)}
    found = []
    for blob in blobs:
        row = rows.get(blob.sha256)
        given_up = row is not None and blob.generation == row.generation and row.touched_at is None
        if row is None or blob.generation < row.generation or given_up:
            found.append(blob)
    return found


def _disown(registry: Registry, blob: StoredBlob) -> bool:
    """Make sure that whoever stores these bytes from now on does so under a later generation; False if one may not."""
    later = blob.generation + 1
    with registry.database.write() as session:
        insert = INSERTS[session.get_bind().dialect.name](BlobRow)
        values = {"sha256": blob.sha256, "size": blob.size, "generation": later, "stored": False}
        added = insert.values(**values, created_at=clock()).on_conflict_do_nothing(index_elements=[BlobRow.sha256])
        session.execute(added)
        same = (BlobRow.sha256 == blob.sha256, BlobRow.generation == blob.generation, BlobRow.touched_at.is_(None))
        raised = update(BlobRow).where(*same).values(generation=later)
        session.execute(raised.execution_options(synchronize_session=False))
        generation = session.scalar(select(BlobRow.generation).where(BlobRow.sha256 == blob.sha256))
        return generation is not None and generation > blob.generation


def _scratch(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    seconds = max(report.grace, STALE_SECONDS)
    for folder in registry.blobs.stale(seconds):
        report.scratch.add(Finding(str(folder), _size(folder), "a process left it half written"))
        if report.applied:
            shutil.rmtree(folder, ignore_errors=True)
    if report.applied:
        for _ in range(registry.blobs.abandon(seconds)):
            report.scratch.add(Finding("a transfer", 0, "a process left it half done"))


def _snapshots(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    """Folders of versions that are gone and, where they are copies, those that nobody used for the grace period."""
    root = registry.home / "snapshots"
    folders = sorted(root.iterdir()) if root.is_dir() else []
    with registry.database.read() as session:
        now = session.scalar(select(clock())) or 0.0
    for batch in _batched(iter(folders)):
        check()
        live = _live(registry, {folder.name for folder in batch}, report.grace)
        for folder in batch:
            unused = registry.blobs.remote and now - folder.stat().st_mtime > report.grace
            if folder.name in live and not unused:
                continue
            why = "nobody used it" if folder.name in live else "its version is gone"
            report.snapshots.add(Finding(folder.name, _size(folder), why))
            if report.applied:
                with registry.blobs.scratch() as scratch:
                    folder.rename(scratch / folder.name)


def _uploads(registry: Registry, report: Report, check: Callable[[], None]) -> None:
    if report.idle is None:
        return
    for upload in registry.uploads.stale(report.idle):
        why = f"left alone since {upload.touched_at:%Y-%m-%d %H:%M}"
        held = _size(registry.home / "uploads" / upload.id)
        report.uploads.add(Finding(f"{upload.id} ({upload.intent.name})", held, why))
    if report.applied:
        registry.uploads.sweep(report.idle)


def _live(registry: Registry, digests: set[str], grace: float) -> set[str]:
    gone = exists().where(
        MarkRow.version_id == VersionRow.id, MarkRow.mark == WITHDRAWN, MarkRow.marked_at <= clock() - grace
    )
    with registry.database.read() as session:
        return set(session.scalars(select(VersionRow.digest).where(VersionRow.digest.in_(digests), ~gone)))


def _batched(entries: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(entries, BATCH)):
        yield batch


def _size(folder: Path) -> int:
    """Bytes that go with a folder; a file that is linked from elsewhere frees nothing."""
    found = (path.lstat() for path in folder.rglob("*") if path.is_file())
    return sum(entry.st_size for entry in found if entry.st_nlink == 1)


def _shown(seconds: float) -> str:
    return f"{moment(seconds):%Y-%m-%d %H:%M}"
