"""Connections to PostgreSQL that break while nobody uses them."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings
from graftwork.testing.postgres import PostgresServer

END_OTHERS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'broken'"


def test_a_connection_that_broke_is_replaced(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_schema() + "&application_name=broken"
    with Registry.open(Settings(home=tmp_path, database_url=url)) as registry:
        with psycopg.connect(postgres.url, autocommit=True) as other:
            ended = other.execute(END_OTHERS).fetchall()
        assert ended
        monkeypatch.setattr("graftwork.registry.db.IDLE_SECONDS", 0.0)
        assert registry.catalog.list() == []
        registry.repositories.create(Name("acme", "new"), private=False)
