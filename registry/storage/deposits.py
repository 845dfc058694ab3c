"""Storing blobs so that garbage collection never takes what somebody is about to use.

A blob is reserved in the database first, which tells the generation to store it under, and keeps it for the grace
period. Its bytes are published. The transaction that refers to it confirms that the generation still stands. Whoever is
killed in between leaves a row, and perhaps bytes, that nobody refers to: garbage, collected later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, false, func, null, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from graftwork.registry.db import Database, clock
from graftwork.registry.storage.blobs import BlobStore, StagedBlob
from graftwork.registry.storage.references import drafted, is_referred_to
from graftwork.registry.tables import BlobRow

INSERTS: dict[str, Callable[..., sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
Touch = ReturningInsert[*tuple[Any, ...]]


def _touch(dialect: str) -> Touch:
    blobs = BlobRow.plain().c
    insert = INSERTS[dialect](BlobRow.plain()).values(touched_at=clock(), created_at=clock())
    there = or_(blobs.stored, and_(insert.excluded.stored, blobs.generation == insert.excluded.generation))
    update_row = insert.on_conflict_do_update(
        index_elements=[blobs.sha256], set_={"touched_at": clock(), "condemned_at": null(), "stored": there}
    )
    return update_row.returning(blobs.id, blobs.sha256, blobs.size, blobs.generation, blobs.stored, blobs.touched_at)


TOUCH = {dialect: _touch(dialect) for dialect in INSERTS}
RELAXED = TOUCH | {
    # what this says is said again by a later transaction, the one to wait for
    "postgresql": TOUCH["postgresql"].returning(func.set_config("synchronous_commit", "off", true()))
}


@dataclass(frozen=True, slots=True)
class Deposit:
    """A blob's row as it was when it was touched: nobody else may count on its bytes unless they are `stored`."""

    id: int
    sha256: str
    size: int
    generation: int
    stored: bool
    touched_at: float | None


class Deposits:
    """The blobs that are on their way into the store."""

    def __init__(self, database: Database, store: BlobStore) -> None:
        self._database = database
        self._store = store

    def reserve(self, sizes: Mapping[str, int], session: Session | None = None) -> dict[str, Deposit]:
        """Announce that the blobs of these digests and sizes are about to be stored or used."""
        entries = [(sha256, size, 0) for sha256, size in sizes.items()]
        if session is not None:
            return touch(session, entries, stored=False)
        with self._database.once() as opened:
            return touch(opened, entries, stored=False, statements=RELAXED)

    def store(self, blobs: Iterable[StagedBlob]) -> dict[str, Deposit]:
        """Reserve staged blobs and publish their bytes. Raises StorageFull, StorageUnavailable.

        It remains to `confirm` them in the transaction that refers to them, or else to `release` them.
        """
        staged = {blob.sha256: blob for blob in blobs}
        reserved = self.reserve({blob.sha256: blob.size for blob in staged.values()})
        try:
            for sha256, deposit in reserved.items():
                self._store.publish(staged[sha256], deposit.generation)
        except BaseException:
            self.release(reserved)
            raise
        return reserved

    def confirm(self, session: Session, reserved: Mapping[str, Deposit]) -> dict[str, Deposit] | None:
        """The blobs, kept from now on by what the transaction of `session` adds; None when one was collected since.

        Then they have to be stored again.
        """
        entries = [(deposit.sha256, deposit.size, deposit.generation) for deposit in reserved.values()]
        confirmed = touch(session, entries, stored=True)
        stands = all(confirmed[sha256].generation == deposit.generation for sha256, deposit in reserved.items())
        return confirmed if stands else None

    def release(self, reserved: Mapping[str, Deposit]) -> None:
        """Delete what was published for nothing, unless somebody else refers to it or is about to use it."""
        mine = or_(
            false(),
            *(
                and_(BlobRow.id == deposit.id, BlobRow.touched_at == deposit.touched_at)
                for deposit in reserved.values()
                if not deposit.stored
            ),
        )
        with self._database.write() as session:
            rows = session.execute(select(BlobRow.id, BlobRow.sha256).where(mine, ~BlobRow.stored)).all()
            removed = delete_rows(session, rows, ~BlobRow.stored, mine, grace=0)
        for sha256, generation in removed:
            self._store.remove(sha256, generation)


def touch(
    session: Session,
    blobs: Sequence[tuple[str, int, int]],
    *,
    stored: bool,
    statements: Mapping[str, Touch] = TOUCH,
) -> dict[str, Deposit]:
    """The rows of blobs (digest, size, generation), added where they are not there, and kept from collection.

    With `stored`, the rows of those generations say from now on that their bytes are there.
    """
    if not blobs:
        return {}
    values = [
        {"sha256": sha256, "size": size, "generation": generation, "stored": stored}
        for sha256, size, generation in sorted(blobs)  # all who lock several rows do it in this order
    ]
    rows = session.execute(statements[session.get_bind().dialect.name], values)
    return {row.sha256: Deposit(*row[:6]) for row in rows}


def delete_rows(
    session: Session, rows: Sequence[Row[int, str]], *conditions: ColumnElement[bool], grace: float
) -> list[tuple[str, int]]:
    """Give up the bytes of those blobs that meet the conditions and that nobody refers to.

    Returns their digests and the generations to remove once the transaction is committed.
    """
    kept = drafted(session)
    ids = [row.id for row in rows if row.sha256 not in kept]
    deletion = (
        update(BlobRow)
        .where(BlobRow.id.in_(ids), *conditions, ~is_referred_to(grace))
        .values(generation=BlobRow.generation + 1, stored=False, touched_at=None, condemned_at=None)
        .returning(BlobRow.sha256, BlobRow.generation)
        .execution_options(synchronize_session=False)
    )
    return [(row.sha256, row.generation - 1) for row in session.execute(deletion)]
