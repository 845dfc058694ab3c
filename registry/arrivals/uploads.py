"""Uploads in parts: what a client declared, and what of it has come.

A part is received beside the registry's blobs, compared with its SHA-256, then copied to its place in its file below
`home/uploads`, fsynced, and only then entered in the database; once entered it never changes. So whatever is entered
is there, after any end of any process, and a client asks what is entered and sends the rest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from graftwork.errors import DatabaseUnavailable, DigestMismatch, InputChanged, TooLarge, UploadConflict, UploadNotFound
from graftwork.registry.arrivals.intents import DeclaredFile, Intent
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.storage.blobs import check_space, fsync, read_chunks, refuse_full, write_all
from graftwork.registry.tables import UploadPartRow, UploadRow
from graftwork.registry.versions.version import Version

ORPHAN_SECONDS = 3600.0
SWEEP_SECONDS = 600.0
LOCK_SECONDS = 20.0
LOCK_POLL_SECONDS = 0.02
LOCK_FILE = "lock"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload. `parts` has the SHA-256 of each stored part by path and number; `registered` what it has become."""

    id: str
    owner: str
    namespace: str
    intent: Intent
    parts: Mapping[str, Mapping[int, str]]
    registered: str | None
    is_new: bool
    """Whether that version was new when it was registered."""
    is_done: bool
    """Whether nothing of `complete` is left to do."""
    created_at: datetime
    touched_at: datetime

    @property
    def missing(self) -> Iterator[tuple[str, int]]:
        """Path and number of each part that is not stored."""
        for file in self.intent.files:
            stored = self.parts.get(file.path, {})
            yield from ((file.path, n) for n in range(1, self.intent.parts(file) + 1) if n not in stored)


class Uploads:
    """The uploads in parts of a registry, in `home/uploads`. Any number of processes may serve the same ones."""

    def __init__(self, home: Path, database: Database) -> None:
        self._root = home / "uploads"
        self._database = database

    def create(self, owner: str, namespace: str, intent: Intent, *, most: int | None = None) -> Upload:
        """Begin an upload, one of at most `most` of the owner's that are not complete.

        Raises TooLarge when there are as many, StorageFull when the disk has no room for it.
        """
        if most is not None and (under_way := self._under_way(owner)) >= most:
            limit = f"{most} that are not complete (uploads_per_owner); complete or delete one first"
            raise TooLarge(what=f"The list of {owner}'s uploads", actual=f"{under_way}", limit=limit)
        upload_id = secrets.token_hex(16)
        self._root.mkdir(exist_ok=True)
        check_space(self._root, intent.size)
        folder = self._root / upload_id
        folder.mkdir()
        (folder / LOCK_FILE).touch()
        fsync(self._root)
        now = clock()
        with self._database.write() as session:
            row = {"id": upload_id, "owner": owner, "namespace": namespace.lower(), "size": intent.size}
            session.execute(insert(UploadRow).values(**row, intent=intent.as_json(), created_at=now, touched_at=now))
        return self.get(upload_id)

    def get(self, upload_id: str) -> Upload:
        """One upload. Raises UploadNotFound."""
        with self._database.read() as session:
            row = session.get(UploadRow, upload_id) if upload_id.isalnum() else None
            if row is None:
                raise UploadNotFound(id=upload_id)
            found = select(UploadPartRow.path, UploadPartRow.number, UploadPartRow.sha256)
            parts: dict[str, dict[int, str]] = {}
            order = (UploadPartRow.path, UploadPartRow.number)
            for path, number, sha256 in session.execute(
                found.where(UploadPartRow.upload_id == row.id).order_by(*order)
            ):
                parts.setdefault(path, {})[number] = sha256
            return _upload(row, parts)

    def list(self, owner: str | None = None) -> list[Upload]:
        """The uploads that are under way, oldest first, without their parts; of one owner, or of all."""
        query = select(UploadRow).order_by(UploadRow.created_at, UploadRow.id)
        if owner is not None:
            query = query.where(UploadRow.owner == owner)
        with self._database.read() as session:
            return [_upload(row, {}) for row in session.scalars(query)]

    def _under_way(self, owner: str) -> int:
        """Uploads of an owner that did not become a version."""
        is_open = UploadRow.intent["registered"].as_string().is_(None)
        query = select(func.count()).select_from(UploadRow).where(UploadRow.owner == owner, is_open)
        with self._database.read() as session:
            return session.scalar(query) or 0

    def reserved(self, namespace: str) -> int:
        """Bytes that the uploads under way in a namespace declared."""
        query = select(func.coalesce(func.sum(UploadRow.size), 0)).where(UploadRow.namespace == namespace.lower())
        with self._database.read() as session:
            return int(session.scalar(query) or 0)

    def store_part(self, upload: Upload, file: DeclaredFile, number: int, received: Path, sha256: str) -> bool:
        """Put a part that was received whole, with this SHA-256, where it belongs. Returns whether it was missing.

        Raises UploadConflict when it is stored with other content or the upload is being completed, UploadNotFound
        when it was deleted meanwhile, StorageFull.
        """
        with self._locked(upload.id, LOCK_SECONDS) as folder:
            current = self.get(upload.id)
            stored = current.parts.get(file.path, {}).get(number)
            if stored is not None or current.registered is not None:
                _require_same(current, file, number, sha256)
                return False
            place = folder / str(upload.intent.files.index(file))
            with refuse_full(folder):
                _copy(received, place, (number - 1) * upload.intent.part_bytes)
                fsync(folder)
            self._enter(upload, file, number, sha256)
            return True

    def _enter(self, upload: Upload, file: DeclaredFile, number: int, sha256: str) -> None:
        row = {"upload_id": upload.id, "path": file.path, "number": number, "sha256": sha256}
        with self._database.write() as session:
            session.execute(insert(UploadPartRow).values(**row, size=upload.intent.part_size(file, number)))
            self._touch(session, upload.id)

    @contextmanager
    def whole(self, upload_id: str, scratch: Path) -> Iterator[Upload]:
        """The upload, with links to its files in `scratch` under their own names, for as long as nobody else has it.

        An upload that is registered already comes without files. Raises UploadConflict while parts are missing or
        another request has it, UploadNotFound.
        """
        with self._locked(upload_id, 0.0) as folder:
            upload = self.get(upload_id)
            if upload.registered is None:
                missing = [f"part {number} of {path}" for path, number in upload.missing]
                if missing:
                    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                    reason = f"it lacks {', '.join(missing[:3])}{more}; send them first"
                    raise UploadConflict(id=upload_id, reason=reason)
                with self._database.write() as session:
                    self._touch(session, upload_id)
                _link_files(upload, folder, scratch)
            yield upload

    def enter_version(self, session: Session, upload_id: str, version: Version, *, is_new: bool) -> None:
        """Say in the transaction that registers it that the upload has become `version`. Raises UploadNotFound."""
        row = session.get(UploadRow, upload_id, with_for_update=True)
        if row is None:
            raise UploadNotFound(id=upload_id)
        row.intent = {**row.intent, "registered": version.digest, "is_new": is_new}
        row.size = 0

    def finish(self, upload_id: str) -> None:
        """Nothing is left to do but to remember the upload for a client that asks again: let go of its files."""
        with self._database.write() as session:
            row = session.get(UploadRow, upload_id, with_for_update=True)
            if row is not None:
                row.intent = {**row.intent, "is_done": True}
                self._touch(session, upload_id)
        for path in (self._root / upload_id).iterdir():
            if path.name != LOCK_FILE:
                path.unlink(missing_ok=True)

    def delete(self, upload_id: str) -> None:
        """Forget an upload and its files. Raises UploadNotFound, UploadConflict while another request has it."""
        with self._locked(upload_id, LOCK_SECONDS) as folder:
            self._forget(upload_id, folder)

    def stale(self, seconds: float) -> Sequence[Upload]:
        """The uploads that were left alone for so long, oldest first, without their parts."""
        query = select(UploadRow).where(UploadRow.touched_at < clock() - seconds).order_by(UploadRow.touched_at)
        with self._database.read() as session:
            return [_upload(row, {}) for row in session.scalars(query)]

    def sweep(self, seconds: float, *, orphan_seconds: float = ORPHAN_SECONDS) -> int:
        """Delete what was left alone for `seconds`, and folders that belong to no upload. Returns how many.

        A folder is there before its upload is entered and after that is forgotten: `orphan_seconds` must be longer than
        a request takes, wherever requests may be under way.
        """
        swept = 0
        for upload_id in [upload.id for upload in self.stale(seconds)]:
            try:
                with self._locked(upload_id, 0.0) as folder:
                    self._forget(upload_id, folder, untouched=seconds)
                    swept += 1
            except UploadConflict:  # somebody is at work on it
                continue
            except UploadNotFound:
                self._forget_row(upload_id)
        return swept + self._sweep_orphans(orphan_seconds)

    def keep_swept(self, seconds: float, stop: threading.Event) -> None:
        """Sweep now and then until `stop` is set. A database that cannot be reached for a while does not end it."""
        while not stop.is_set():
            try:
                self.sweep(seconds)
            except DatabaseUnavailable:  # the database said so, once
                pass
            except DBAPIError:
                logger.exception("uploads that nobody goes on with cannot be deleted; trying again")
            stop.wait(SWEEP_SECONDS)

    def _sweep_orphans(self, seconds: float) -> int:
        """Folders whose upload was never entered, or whose deletion was cut short."""
        if not self._root.is_dir():
            return 0
        old = time.time() - seconds
        with os.scandir(self._root) as entries:
            folders = [Path(entry.path) for entry in entries if _changed(entry) < old]
        with self._database.read() as session:
            known = set(session.scalars(select(UploadRow.id)))
        return sum(_remove(folder) for folder in folders if folder.name not in known)

    def _forget(self, upload_id: str, folder: Path, *, untouched: float | None = None) -> None:
        with self._database.write() as session:
            row = session.get(UploadRow, upload_id, with_for_update=True)
            if row is None:
                raise UploadNotFound(id=upload_id)
            if untouched is not None and not session.scalar(select(clock() - untouched > row.touched_at)):
                raise UploadConflict(id=upload_id, reason="somebody went on with it")
            session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
            session.delete(row)
        _remove(folder)

    @staticmethod
    def _touch(session: Session, upload_id: str) -> None:
        session.execute(update(UploadRow).where(UploadRow.id == upload_id).values(touched_at=clock()))

    @contextmanager
    def _locked(self, upload_id: str, wait: float) -> Iterator[Path]:
        """The folder of an upload, which no other request in any process has meanwhile."""
        folder = self._root / upload_id
        if not upload_id.isalnum():
            raise UploadNotFound(id=upload_id)
        try:
            lock = os.open(folder / LOCK_FILE, os.O_RDWR)
        except FileNotFoundError:
            raise UploadNotFound(id=upload_id) from None
        try:
            _acquire(lock, upload_id, wait)
            yield folder
        finally:
            os.close(lock)

    def _forget_row(self, upload_id: str) -> None:
        """Delete an upload whose folder is gone: there is nothing to go on with."""
        with self._database.write() as session:
            session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))
            session.execute(delete(UploadRow).where(UploadRow.id == upload_id))


def _changed(entry: os.DirEntry[str]) -> float:
    """When a folder last changed; never, once another process has removed it."""
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return float("inf")


def _remove(folder: Path) -> bool:
    """Remove the folder of an upload that is forgotten. What cannot go now is an orphan for the next sweep."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:  # another process removes it
        return False
    except OSError as error:
        logger.warning("files of an upload that is gone stay behind: %s", error)
        return False
    return True


def _upload(row: UploadRow, parts: Mapping[str, Mapping[int, str]]) -> Upload:
    return Upload(
        id=row.id,
        owner=row.owner,
        namespace=row.namespace,
        intent=Intent.parse(row.intent),
        parts=parts,
        registered=row.intent.get("registered"),
        is_new=bool(row.intent.get("is_new")),
        is_done=bool(row.intent.get("is_done")),
        created_at=moment(row.created_at),
        touched_at=moment(row.touched_at),
    )


def _require_same(upload: Upload, file: DeclaredFile, number: int, sha256: str) -> None:
    stored = upload.parts.get(file.path, {}).get(number)
    if stored != sha256:
        what = "is stored with other content" if stored else "was not needed"
        reason = f"part {number} of {file.path} {what}; delete the upload and begin another one"
        raise UploadConflict(id=upload.id, reason=reason)


def _acquire(lock: int, upload_id: str, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise UploadConflict(id=upload_id, reason="another request is at work on it; wait for it") from None
            time.sleep(LOCK_POLL_SECONDS)
        else:
            return


def _copy(received: Path, place: Path, offset: int) -> None:
    """Write the bytes of `received` into `place` from `offset` on, and make them last."""
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        for chunk in read_chunks(received):
            write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_files(upload: Upload, folder: Path, scratch: Path) -> None:
    for index, file in enumerate(upload.intent.files):
        source, target = folder / str(index), scratch / file.path
        if file.size == 0:
            source.touch()
        if source.stat().st_size != file.size:
            raise InputChanged(path=source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def check_digests(upload: Upload, digests: Mapping[str, str]) -> None:
    """Compare the SHA-256 of each file with the declared one. Raises DigestMismatch."""
    for file in upload.intent.files:
        if file.sha256 is not None and digests.get(file.path, file.sha256) != file.sha256:
            raise DigestMismatch(what=file.path, actual=digests[file.path], expected=file.sha256)
