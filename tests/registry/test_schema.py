from __future__ import annotations

import sqlite3
import time
from importlib.resources import files
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, select, text

from graftwork.errors import InvalidSetting, OperationFailed, StorageFull
from graftwork.registry.db import Database, clock
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.tables import SCHEMA_REVISION, Table
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind, TensorRecord
from graftwork.settings import Settings


def test_the_migrated_schema_is_the_declared_one(registry: Registry) -> None:
    with registry.database.engine.connect() as connection:
        opts = {"compare_type": True, "include_name": lambda name, *_: name != "ix_artifacts_trigrams"}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, Table.metadata) == []


def test_the_declared_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(files("graftwork") / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


def test_downgrading_leaves_no_table(registry: Registry) -> None:
    config = Config()
    config.set_main_option("script_location", str(files("graftwork") / "migrations"))
    with registry.database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with registry.database.engine.connect() as connection:
        left = inspect(connection).get_table_names()
    assert left == ["alembic_version"]


def test_a_registry_of_a_newer_graftwork_is_refused(settings: Settings) -> None:
    with Registry.open(settings) as registry, registry.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(OperationFailed, match="9999"):
        Registry.open(settings)


def test_sqlite_is_in_wal_mode_and_enforces_foreign_keys(local_registry: Registry) -> None:
    with local_registry.database.engine.connect() as connection:
        pragmas = ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        values = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas]
    assert values == ["wal", 1, 1, 30_000]


def test_the_clock_is_the_time(registry: Registry) -> None:
    with registry.database.read() as session:
        assert session.scalar(select(clock())) == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("url", ["mysql://user:secret@host/db", "not a url"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match="postgresql://") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path, postgres: object) -> None:
    (tmp_path / "registry.db").write_bytes(b"this is not a database, whatever its name" * 100)
    with pytest.raises(OperationFailed, match=r"registry\.db failed: file is not a database"):
        Registry.open(Settings(home=tmp_path))
    absent = f"postgresql://user:secret@/db?host={tmp_path}"
    with pytest.raises(OperationFailed, match="No such file") as caught:
        Registry.open(Settings(home=tmp_path, database_url=absent))
    assert "secret" not in str(caught.value)


def test_a_full_disk_under_the_database_leaves_no_trace(local_registry: Registry) -> None:
    def freeze(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes it as the pages that there are

    file = FileEntry("x.txt", *local_registry.blobs.put_stream([b"x"]))
    tensors = [TensorRecord(f"t{index}", "F32", (1,), "x.txt", 0, 4, "ab" * 32) for index in range(10_000)]
    local_registry.close()
    event.listen(local_registry.database.engine, "connect", freeze)
    with pytest.raises(StorageFull, match="the database"):
        local_registry.catalog.register(Name("a", "b"), Kind.BASE, [file], tensors=tensors)
    assert local_registry.catalog.list() == []
