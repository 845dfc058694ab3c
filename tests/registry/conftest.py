"""Registries on both databases, and small models and adapters made by the libraries that own the formats."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graftwork.registry.registry import Registry
from graftwork.settings import Settings

HIDDEN = 32


@dataclass(frozen=True)
class PostgresServer:
    """A running server that belongs to the test session."""

    url: str

    def new_schema(self) -> str:
        """A URL under which the database is empty: a schema of its own, made in less time than a database."""
        import psycopg

        name = "graftwork_" + uuid.uuid4().hex
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra 'postgres')")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed on this machine")
    folder = Path(tempfile.mkdtemp(prefix="gw-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"

    def run(program: str, *arguments: str) -> None:
        command = [*prefix, str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)

    run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C")
    options = f"-c fsync=off -c listen_addresses='' -c max_connections=50 -k {folder}"
    run("pg_ctl", "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        yield PostgresServer(f"postgresql://postgres@/postgres?host={folder}")
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def _postgres_programs() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return folders[-1] if folders else None


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """A database URL for Settings: empty for SQLite in the home."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema()


@pytest.fixture
def settings(tmp_path: Path, database: str) -> Settings:
    return Settings(home=tmp_path / "home", database_url=database)


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    """An empty registry, on each of the databases."""
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def local_registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry on SQLite."""
    with Registry.open(Settings(home=tmp_path / "home")) as opened:
        yield opened


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return _write_family(tmp_path_factory.mktemp("family"))


def _write_family(root: Path) -> dict[str, Path]:
    """Folders written by transformers and PEFT: a Llama of two layers, whole and sharded, and adapters for it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(root / "base")
    LlamaForCausalLM.from_pretrained(root / "base").save_pretrained(root / "sharded", max_shard_size="20KB")

    def adapter(name: str, **options: Any) -> Path:
        model = LlamaForCausalLM.from_pretrained(root / "base")
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **options)
        get_peft_model(model, lora).save_pretrained(str(root / name))
        return root / name

    return {
        "base": root / "base",
        "sharded": root / "sharded",
        "adapter": adapter("adapter"),
        "patterned": adapter(
            "patterned", rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"down_proj": 3, "q_proj": 16}
        ),
        "rslora": adapter("rslora", use_rslora=True),
        "dora": adapter("dora", use_dora=True),
    }


@pytest.fixture
def adapter(tmp_path: Path, family: dict[str, Path]) -> Path:
    """A copy of an adapter of `family`, to be damaged."""
    return shutil.copytree(family["adapter"], tmp_path / "adapter")


@pytest.fixture
def contents(local_registry: Registry) -> Callable[[], set[str]]:
    """What the home of `local_registry` holds beside its database: blobs, snapshots, half-written and fetched files."""

    def listed() -> set[str]:
        paths = (path for path in local_registry.home.rglob("*") if path.is_file())
        return {path.name for path in paths if not path.name.startswith("registry.db") and path.suffix != ".lock"}

    return listed
