"""Alembic's environment: runs in the transaction of a caller, or by itself on the database of the settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from graftwork.registry.db import Database
from graftwork.registry.tables import Table
from graftwork.settings import load_settings


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Table.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    database = Database(load_settings().database)
    with database.engine.begin() as opened:
        _run(opened)
    database.close()
