"""Registries on both databases, and small models and adapters made by the libraries that own the formats."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graftwork.registry.registry import Registry
from graftwork.settings import Settings
from graftwork.testing.object_storage import ObjectStorage
from graftwork.testing.postgres import PostgresServer

HIDDEN = 32


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """A database URL for Settings: empty for SQLite in the home."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema()


@pytest.fixture(params=["files", "s3"])
def storage(request: pytest.FixtureRequest) -> str:
    """A storage URL for Settings: empty for files in the home."""
    if request.param == "files":
        return ""
    server: ObjectStorage = request.getfixturevalue("object_storage")
    return server.new_prefix()


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
