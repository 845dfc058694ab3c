"""List, search and resolve in a registry of 100,000 adapters, on SQLite and on PostgreSQL.

    python -m benchmarks.service.scale [--adapters 100000] [--rounds 200] [--database sqlite|postgresql]

Rows are written in bulk; what is measured are the calls that the API makes, with the page sizes that it allows. Prints
a table of medians and 95th percentiles; fails when a 95th percentile is over its limit.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.catalog.catalog import Artifact
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.tables import (
    AliasRow,
    ArtifactRow,
    BlobRow,
    FileRow,
    MarkRow,
    TagRow,
    VersionRow,
)
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings
from graftwork.testing.postgres import programs, running_postgres

CHUNK = 5_000
NAMESPACES = 500
VERSIONS = 1
WITHDRAWN = 100
"""One adapter of so many was withdrawn."""
WORDS = ("support", "legal", "german", "code", "math", "chat", "summary", "medical", "finance", "tone")
LIMITS = {"list": 0.050, "search": 0.050, "resolve": 0.005}


def digest(*parts: object) -> str:
    """A digest that stands for content."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def name_of(number: int) -> Name:
    """The name of an adapter."""
    word, other = WORDS[number % len(WORDS)], WORDS[number // 7 % len(WORDS)]
    return Name(f"team-{number % NAMESPACES}", f"{word}-{other}-{number:06d}")


def fill(registry: Registry, adapters: int) -> None:
    """`adapters` artifacts, each with a version of two files, an alias and a tag; some withdrawn, some private."""
    for start in range(0, adapters, CHUNK):
        with registry.database.write() as session:
            _fill(session, range(start, min(start + CHUNK, adapters)))
    with registry.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _fill(session: Session, numbers: range) -> None:
    kinds: tuple[list[dict[str, Any]], ...] = ([], [], [], [], [], [], [])
    artifacts, versions, blobs, files, aliases, tags, marks = kinds
    for number in numbers:
        name, ident = name_of(number), number + 1
        row = {"id": ident, "key": name.key, "namespace": name.namespace, "name": name.name, "kind": "adapter"}
        row["namespace_key"] = name.namespace.lower()
        artifacts.append({**row, "private": number % 20 == 0, "created_at": 1.0})
        tags.append({"artifact_id": ident, "tag": "nightly" if number % 10 == 0 else "daily"})
        for version in range(VERSIONS):
            version_id = number * VERSIONS + version + 1
            row = {"id": version_id, "artifact_id": ident, "number": version + 1, "digest": digest(number, version)}
            versions.append({**row, "base": digest("base"), "details": {}, "created_at": 1.0})
            blob_id = 2 * version_id
            for file, blob in (("adapter_config.json", blob_id - 1), ("adapter_model.safetensors", blob_id)):
                row = {"id": blob, "sha256": digest("blob", blob), "size": 1000, "stored": True}
                blobs.append({**row, "generation": 0, "touched_at": 1.0, "created_at": 1.0})
                files.append({"version_id": version_id, "path": file, "blob_id": blob})
        aliases.append({"artifact_id": ident, "alias": "prod", "digest": digest(number, 0), "updated_at": 1.0})
        if number % WITHDRAWN == WITHDRAWN - 1:
            row = {"version_id": number * VERSIONS + 1, "mark": "withdrawn", "actor": "", "reason": ""}
            marks.append({**row, "marked_at": 1.0})
    tables: tuple[type[Any], ...] = (ArtifactRow, VersionRow, BlobRow, FileRow, AliasRow, TagRow, MarkRow)
    for table, rows in zip(tables, kinds, strict=True):
        session.execute(insert(table), rows)


def calls(registry: Registry, adapters: int, rng: random.Random) -> dict[str, Callable[[], object]]:
    """What is measured, by its label."""
    catalog = registry.catalog

    def some() -> Name:
        return name_of(rng.randrange(adapters) // WITHDRAWN * WITHDRAWN)

    def version() -> str:
        number = rng.randrange(adapters) // WITHDRAWN * WITHDRAWN
        return f"{name_of(number)}@{digest(number, 0)[:12]}"

    mine = Access("somebody", Grants.parse({"team-1": ["read"]}))

    def visible(**filters: Any) -> list[Artifact]:
        with acting_for(mine):
            return catalog.list(**filters)

    return {
        "list, first page of 100": catalog.list,
        "list, a page in the middle": lambda: catalog.list(after=str(some())),
        "list, of one kind, what one may read": lambda: visible(kind=Kind.ADAPTER, after=str(some())),
        "list, of a namespace": lambda: catalog.list(namespace=f"team-{rng.randrange(NAMESPACES)}"),
        "search, one in all": lambda: catalog.list(search=f"{rng.randrange(adapters):06d}"),
        "search, a common word": lambda: catalog.list(search=rng.choice(WORDS)),
        "search, nothing found": lambda: catalog.list(search="no-such-adapter"),
        "search, two letters": lambda: catalog.list(search="zq"),
        "search, what one may read": lambda: visible(search=f"{rng.randrange(adapters):06d}"),
        "resolve, an alias": lambda: catalog.resolve(f"{some()}@prod"),
        "resolve, a version": lambda: catalog.resolve(f"{some()}@v1"),
        "resolve, a digest": lambda: catalog.resolve(version()),
        "resolve, the newest": lambda: catalog.resolve(str(some())),
    }


def measure(call: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls, in order of length; a few calls before are not counted."""
    for _ in range(5):
        call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return sorted(taken)


@contextmanager
def database_url(kind: str, *, durable: bool = False) -> Iterator[str]:
    """An empty database: a file, or a schema of a server of its own."""
    if kind == "sqlite":
        yield ""
        return
    with running_postgres(durable=durable, connections=200) as server:
        yield server.new_schema()


def run(kind: str, adapters: int, rounds: int) -> list[str]:
    """Measure on one database. Returns what is too slow."""
    slow = []
    with (
        tempfile.TemporaryDirectory() as home,
        database_url(kind) as url,
        Registry.open(Settings(home=Path(home), database_url=url)) as registry,
    ):
        began = time.perf_counter()
        fill(registry, adapters)
        print(f"\n{kind}: {adapters:,} adapters, {adapters * VERSIONS:,} versions ", end="")
        print(f"({time.perf_counter() - began:.0f} s to write)\n\n| call | p50 ms | p95 ms | limit ms |")
        print("| --- | ---: | ---: | ---: |")
        for label, call in calls(registry, adapters, random.Random(0)).items():
            taken = measure(call, rounds)
            limit = LIMITS[label.partition(",")[0]]
            p50, p95 = taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
            print(f"| {label} | {p50 * 1e3:.2f} | {p95 * 1e3:.2f} | {limit * 1e3:.0f} |", flush=True)
            if p95 > limit:
                slow.append(f"{kind}: {label}: {p95 * 1e3:.1f} ms")
    return slow


def main() -> int:
    """Run; 1 when something is too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--database", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    there = ["sqlite", *(["postgresql"] if programs() else [])]
    slow = []
    for kind in [options.database] if options.database else there:
        slow += run(kind, options.adapters, options.rounds)
    for line in slow:
        print(f"too slow: {line}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
