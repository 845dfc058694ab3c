from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graftwork.errors import CorruptBlob, OutputExists, StorageFull
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import export, materialise, verify
from graftwork.registry.versions.version import Version


@pytest.fixture
def version(local_registry: Registry, family: dict[str, Path], tmp_path: Path) -> Version:
    """A sharded checkpoint with a file in a subfolder."""
    import shutil

    folder = shutil.copytree(family["sharded"], tmp_path / "source")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "notes.txt").write_text("notes")
    return import_source(local_registry, str(folder), Name("acme", "model"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(registry: Registry, version: Version) -> None:
    blob = registry.blobs.path(version.files[-1].sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"damage")


def test_a_snapshot_holds_the_files_of_the_version(local_registry: Registry, version: Version, tmp_path: Path) -> None:
    folder = materialise(local_registry, version)
    assert tree(folder) == tree(tmp_path / "source")
    assert materialise(local_registry, version) == folder
    assert read_checkpoint(folder).files == tuple(file.path for file in version.files)


@pytest.mark.parametrize("left", [None, b""])
def test_a_snapshot_that_a_power_failure_left_in_pieces_is_made_again(
    local_registry: Registry, version: Version, tmp_path: Path, left: bytes | None
) -> None:
    folder = materialise(local_registry, version)
    broken = folder / version.files[-1].path
    broken.unlink()
    if left is not None:
        broken.write_bytes(left)
    assert tree(materialise(local_registry, version)) == tree(tmp_path / "source")
    assert materialise(local_registry, version) == folder


def test_a_snapshot_loads_in_transformers(local_registry: Registry, version: Version, family: dict[str, Path]) -> None:
    import torch
    from transformers import LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(materialise(local_registry, version)).state_dict()
    truth = LlamaForCausalLM.from_pretrained(family["base"]).state_dict()
    assert loaded.keys() == truth.keys()
    assert all(torch.equal(loaded[name], truth[name]) for name in truth)


def test_a_snapshot_made_by_many_threads_is_whole(local_registry: Registry, version: Version, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        folders = set(pool.map(lambda _: materialise(local_registry, version), range(12)))
    assert len(folders) == 1
    assert tree(folders.pop()) == tree(tmp_path / "source")


def test_a_file_system_without_links_gets_copies(
    local_registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    assert tree(materialise(local_registry, version)) == tree(tmp_path / "source")


def test_an_export_is_a_copy_of_its_own(local_registry: Registry, version: Version, tmp_path: Path) -> None:
    seen = []
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "new" / "deep", tmp_path / "empty"):
        export(local_registry, version, target, lambda stage, done, total: seen.append((done, total)))
        assert tree(target) == tree(tmp_path / "source")
        (target / "sub" / "deep" / "notes.txt").write_text("changed")
    assert seen[-1] == (version.size, version.size)
    verify(local_registry, version)


def test_an_export_does_not_touch_what_is_there(local_registry: Registry, version: Version, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("mine")
    for target in (full, full / "x"):
        with pytest.raises(OutputExists):
            export(local_registry, version, target)
    assert tree(full) == {"x": b"mine"}


def test_an_export_that_fails_leaves_nothing(
    local_registry: Registry, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in tmp_path.iterdir()}

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageFull):
            export(local_registry, version, tmp_path / "out")
    damage(local_registry, version)
    with pytest.raises(CorruptBlob):
        export(local_registry, version, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_verifying_finds_damage(local_registry: Registry, version: Version) -> None:
    verify(local_registry, version)
    damage(local_registry, version)
    with pytest.raises(CorruptBlob, match=version.files[-1].sha256):
        verify(local_registry, version)


def test_a_snapshot_of_a_missing_blob_is_refused(
    local_registry: Registry, version: Version, contents: Callable[[], set[str]]
) -> None:
    local_registry.blobs.remove(version.files[0].sha256)
    before = contents()
    with pytest.raises(CorruptBlob):
        materialise(local_registry, version)
    assert contents() == before
