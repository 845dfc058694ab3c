"""Repositories and commits on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from graftwork.errors import InvalidRequest, RepositoryExists, StaleCommit, VersionWithdrawn
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.commits import Addition, Change, Deletion, commit
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family

BASE, LORA = Name("tiny", "base"), Name("acme", "lora")


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, family: Family) -> Iterator[Registry]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").new_schema()
    with Registry.open(Settings(home=tmp_path / "home", database_url=url)) as opened:
        import_source(opened, str(family.base), BASE)
        yield opened


def additions(registry: Registry, folder: Path, *names: str) -> list[Addition]:
    staging = registry.home / "staging"
    staging.mkdir(exist_ok=True)
    return [Addition(name, registry.blobs.stage([(folder / name).read_bytes()], staging)) for name in names]


def test_a_draft_a_version_an_older_version(registry: Registry, adapter: Path) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    registry.repositories.create(LORA, private=True)
    with pytest.raises(RepositoryExists):
        registry.repositories.create(LORA, private=False)
    empty = registry.repositories.view(LORA)
    draft = commit(registry, LORA, Change(additions(registry, adapter, names[0]), "one"), actor="ada")
    assert draft.missing == "it has no adapter_model.safetensors"
    assert registry.repositories.view(LORA, draft.view.revision).tree.keys() == {names[0]}
    whole = commit(registry, LORA, Change(additions(registry, adapter, names[1]), "two"), actor="ada")
    assert (whole.missing, whole.view.version is not None) == (None, True)
    assert registry.catalog.is_private(LORA)
    (adapter / "README.md").write_text("# A card\n")
    second = commit(registry, LORA, Change(additions(registry, adapter, "README.md"), "card"), actor="ada")
    assert registry.catalog.resolve(Ref(LORA)).number == 2
    back = commit(registry, LORA, Change([Deletion("README.md", is_folder=False)], "no card"), actor="ada")
    assert back.view.revision == whole.view.revision == registry.repositories.view(LORA).revision
    assert registry.repositories.view(LORA, "v2").revision == second.view.revision
    late = Change(additions(registry, adapter, "README.md"), "late", parent=empty.revision)
    with pytest.raises(StaleCommit):
        commit(registry, LORA, late, actor="ada")


def test_main_follows_versions_that_come_by_other_doors(registry: Registry, adapter: Path) -> None:
    names = ("adapter_config.json", "adapter_model.safetensors")
    registry.repositories.create(LORA, private=False)
    commit(registry, LORA, Change(additions(registry, adapter, names[0]), "one"), actor="ada")
    imported = import_source(registry, str(adapter), LORA)
    assert registry.repositories.view(LORA).revision == imported.revision
    (adapter / "README.md").write_text("# A card\n")
    outcome = commit(registry, LORA, Change(additions(registry, adapter, "README.md"), "card"), actor="ada")
    assert outcome.view.version is not None
    assert outcome.view.version.number == 2
    assert outcome.view.version.base == imported.base


def test_a_repository_goes_once_its_versions_are_withdrawn(registry: Registry, adapter: Path) -> None:
    registry.repositories.create(LORA, private=False)
    version = import_source(registry, str(adapter), LORA, base=Ref(BASE))
    with pytest.raises(InvalidRequest, match=r"withdraw each one first.*acme/lora/versions/v1"):
        registry.repositories.delete(LORA)
    registry.marks.withdraw(version, actor="ada", reason="wrong")
    registry.repositories.delete(LORA)
    with pytest.raises(VersionWithdrawn):
        registry.repositories.view(LORA, "v1")
