"""Connections to the registry's database: SQLite in WAL mode, or PostgreSQL through psycopg 3."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Double, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.functions import FunctionElement

from graftwork.errors import DatabaseUnavailable, InvalidSetting, OperationFailed, StorageFull
from graftwork.registry.tables import SCHEMA_REVISION

BUSY_SECONDS = 30
IDLE_SECONDS = 1.0
"""After which a connection to PostgreSQL is tried before it is used."""
EXPECTED_URL = "an sqlite:// or postgresql:// URL"
ADVISORY_LOCK = 0x6772616674
KEYED_LOCKS = 0x67726166
DISK_FULL_SQLSTATE = "53100"
LOST_SQLSTATES = ("08", "57P", "53300")
"""How those begin that say that the connection is gone, the server stops or starts, or has too many connections."""
SHARE = text("SELECT pg_advisory_xact_lock_shared(:all), pg_advisory_xact_lock(:space, hashtext(:key))")

logger = logging.getLogger(__name__)


class clock(FunctionElement[float]):  # noqa: N801 (reads as an SQL function)
    """Seconds since 1970 on the database's clock, the only one that leases and history go by."""

    type = Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(element: clock, compiler: Any, **options: Any) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(element: clock, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"


def moment(seconds: float) -> datetime:
    """The time that is `seconds` after the start of 1970."""
    return datetime.fromtimestamp(seconds, UTC)


class Database:
    """An engine and the two kinds of transaction that the registry uses.

    Each of them raises DatabaseUnavailable when the database does not answer. That, and that it answers again, is
    logged once, however many wait for it.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise InvalidSetting(name="database_url", value=url, expected=EXPECTED_URL) from None
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            self.engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        elif backend in ("postgresql", "postgres"):
            self.engine = create_engine(parsed.set(drivername="postgresql+psycopg"))
            event.listen(self.engine, "checkin", _note_use)
            event.listen(self.engine, "checkout", _ping_idle)
        else:
            shown = parsed.render_as_string(hide_password=True)
            raise InvalidSetting(name="database_url", value=shown, expected=EXPECTED_URL)
        self._writer = self.engine.execution_options(immediate=True)
        self._is_lost = False
        is_remote = backend != "sqlite"
        # PostgreSQL shows each statement what was committed before it: BEGIN and ROLLBACK would be words for nothing
        single = self.engine.execution_options(isolation_level="AUTOCOMMIT") if is_remote else None
        self._reader, self._single = single or self.engine, single or self._writer

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that changes nothing; on SQLite it sees one state of the database."""
        with self._told(), Session(self._reader) as session:
            yield session

    @contextmanager
    def once(self) -> Iterator[Session]:
        """A session for a single statement, which is committed with it."""
        with self._told(), Session(self._single) as session, session.begin():
            yield session

    @contextmanager
    def write(self, session: Session | None = None) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all; `session` itself when given.

        On SQLite it is the only writer from its first statement on. Raises StorageFull when the disk is full.
        """
        if session is not None:
            yield session
            return
        with (
            self._told(),
            Session(self._writer, expire_on_commit=False) as opened,
            opened.begin(),
        ):
            yield opened

    def exclude(self, session: Session) -> None:
        """Let no other transaction that calls this or `share` run beside this one, until it ends."""
        _exclude(session.connection())

    def share(self, session: Session, key: str) -> None:
        """Let no other transaction that shares the same `key`, and none that excludes all, run beside this one."""
        if session.connection().dialect.name == "postgresql":
            session.execute(SHARE, {"all": ADVISORY_LOCK, "space": KEYED_LOCKS, "key": key})

    def migrate(self) -> None:
        """Bring the schema to `SCHEMA_REVISION`; quick when it is there.

        Raises OperationFailed when the database cannot be reached or a newer Graftwork wrote it.
        """
        try:
            with self.engine.connect() as connection:
                if _revision(connection) == SCHEMA_REVISION:
                    return
            with self._writer.begin() as connection:
                _exclude(connection)
                if _revision(connection) != SCHEMA_REVISION:
                    _upgrade(connection, self._name)
        except DBAPIError as error:
            raise OperationFailed(what=f"Opening {self._name}", reason=_reason(error)) from error

    def is_migrated(self) -> bool:
        """Whether the schema is the one that this Graftwork knows."""
        with self._told(), self.engine.connect() as connection:
            return _revision(connection) == SCHEMA_REVISION

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, PoolExhausted) as error:
            if isinstance(error, DBAPIError) and _is_disk_full(error.orig):
                raise StorageFull(path=self._name, needed="more", available="none to spare") from error
            if not _is_lost(error):
                raise
            if not self._is_lost:
                self._is_lost = True
                logger.warning("%s does not answer: %s", self._name, _reason(error))
            raise DatabaseUnavailable() from error
        if self._is_lost:
            self._is_lost = False
            logger.info("%s answers again", self._name)

    @property
    def _name(self) -> str:
        return f"the database {self.engine.url.render_as_string(hide_password=True)}"


def _note_use(connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ping_idle(connection: Any, record: ConnectionPoolEntry, proxy: object) -> None:
    """Have a connection replaced that broke while nobody used it: the server was started anew, or a proxy closed it."""
    now = time.monotonic()
    if now - record.info.get("used", now) < IDLE_SECONDS:
        return
    from psycopg import Error

    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Error as error:
        raise InvalidatePoolError from error


def _configure_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite, not behind our back
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # a deferred transaction that later writes fails at once when another wrote in between, whatever the timeout
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _exclude(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})


def _is_disk_full(error: BaseException | None) -> bool:
    return (
        getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        or getattr(error, "sqlstate", None) == DISK_FULL_SQLSTATE
    )


def _is_lost(error: DBAPIError | PoolExhausted) -> bool:
    if not isinstance(error, OperationalError):
        return isinstance(error, PoolExhausted) or error.connection_invalidated
    if isinstance(error.orig, sqlite3.Error):
        return error.orig.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN)
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate is None or sqlstate.startswith(LOST_SQLSTATES)


def _reason(error: DBAPIError | PoolExhausted) -> str:
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection, name: str) -> None:
    from importlib.resources import as_file, files

    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with as_file(files("graftwork") / "migrations") as scripts:
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, SCHEMA_REVISION)
        except CommandError as error:
            reason = f"its schema is not one that this Graftwork knows ({error}); use the Graftwork that wrote it"
            raise OperationFailed(what=f"Opening {name}", reason=reason) from error
