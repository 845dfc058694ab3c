"""A PostgreSQL server of one's own, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server."""

    url: str

    def new_schema(self) -> str:
        """A URL under which the database is empty: a schema of its own, made in less time than a database."""
        import psycopg

        name = "graftwork_" + uuid.uuid4().hex
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}&options=-csearch_path%3D{name}"


def programs() -> Path | None:
    """The folder with `initdb` and `pg_ctl`, if a server is installed."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return folders[-1] if folders else None


@contextmanager
def running_postgres(*, durable: bool = False, connections: int = 50) -> Iterator[PostgresServer]:
    """Start a server that listens on a Unix socket only; it ends, and its files go, with the context.

    durable: whether commits wait for the disk, as they do in earnest
    """
    folder_of_programs = programs()
    if folder_of_programs is None:
        raise FileNotFoundError("initdb")
    folder = Path(tempfile.mkdtemp(prefix="gw-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(folder_of_programs / program), *arguments]
        subprocess.run(  # noqa: S603
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )

    run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C")
    options = f"-c fsync={'on' if durable else 'off'} -c listen_addresses='' -c max_connections={connections}"
    run("pg_ctl", "-D", str(data), "-o", f"{options} -k {folder}", "-l", str(folder / "log"), "-w", "start")
    try:
        yield PostgresServer(f"postgresql://postgres@/postgres?host={folder}")
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)
