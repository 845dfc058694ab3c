from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graftwork.errors import (
    Cancelled,
    IncompatibleAdapter,
    InvalidAdapter,
    InvalidCheckpoint,
    InvalidName,
    InvalidRequest,
    KindConflict,
    LeaseLost,
    SourceNotFound,
)
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind, Parent, Version

BASE, ADAPTER = Name("acme", "base"), Name("acme", "adapter")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def import_base(registry: Registry, family: dict[str, Path], which: str = "base") -> Version:
    return import_source(registry, str(family[which]), BASE)


@pytest.mark.parametrize("which", ["base", "sharded"])
def test_a_checkpoint_is_registered_with_every_file_and_tensor(
    registry: Registry, family: dict[str, Path], which: str
) -> None:
    version = import_base(registry, family, which)
    assert (version.kind, version.number, version.base) == (Kind.BASE, 1, None)
    sources = {path.name: path.read_bytes() for path in family[which].iterdir()}
    assert {file.path: (file.sha256, file.size) for file in version.files} == {
        name: (digest(content), len(content)) for name, content in sources.items()
    }
    for file in version.files:
        assert registry.blobs.path(file.sha256).read_bytes() == sources[file.path]
    truth: dict[str, tuple[str, np.ndarray]] = {}
    for name in sources:
        if name.endswith(".safetensors"):
            truth |= {tensor: (name, array) for tensor, array in load_file(family[which] / name).items()}
    records = registry.catalog.tensors(version)
    assert {record.name for record in records} == truth.keys()
    for record in records:
        name, array = truth[record.name]
        assert (record.file, record.dtype, record.shape) == (name, "F32", array.shape)
        assert record.sha256 == digest(array.tobytes()) == digest(sources[name][record.begin : record.end])


def test_empty_tensors_have_a_digest_too(registry: Registry, tmp_path: Path) -> None:
    arrays = {"a": np.zeros((0, 3), "f4"), "b": np.arange(2, dtype="f4"), "c": np.zeros(0, "i8")}
    save_file(arrays, tmp_path / "x.safetensors")
    version = import_source(registry, str(tmp_path / "x.safetensors"), BASE, kind=Kind.BASE)
    assert {record.name: record.sha256 for record in registry.catalog.tensors(version)} == {
        name: digest(array.tobytes()) for name, array in arrays.items()
    }
    assert [file.path for file in version.files] == ["x.safetensors"]


def test_importing_again_gives_the_same_version(
    local_registry: Registry, family: dict[str, Path], contents: Callable[[], set[str]]
) -> None:
    first = import_base(local_registry, family)
    before = contents()
    assert import_base(local_registry, family) == first
    assert contents() == before


@pytest.mark.parametrize("which", ["adapter", "patterned", "rslora"])
def test_an_adapter_is_pinned_to_its_base(registry: Registry, family: dict[str, Path], which: str) -> None:
    base = import_base(registry, family, "sharded")
    adapter = import_source(registry, str(family[which]), ADAPTER, base=Ref.parse("acme/base"), aliases=["prod"])
    assert (adapter.kind, adapter.base) == (Kind.ADAPTER, base.digest)
    assert registry.catalog.resolve("acme/adapter@prod") == adapter
    edge = registry.lineage.children(base.digest)[0]
    assert (edge.child, edge.parent, edge.relation) == (adapter.digest, base.digest, "adapter_of")
    assert {file.path for file in adapter.files} == {path.name for path in family[which].iterdir()}


def declare_base(folder: Path, base: str | None) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))


def test_the_base_that_an_adapter_names_is_found(registry: Registry, family: dict[str, Path], tmp_path: Path) -> None:
    base = import_base(registry, family)
    folder = shutil.copytree(family["adapter"], tmp_path / "adapter")
    declare_base(folder, "acme/base@v1")
    assert import_source(registry, str(folder), ADAPTER).base == base.digest


@pytest.mark.parametrize("declared", [None, "meta/Llama", "./models/llama"])
def test_an_adapter_whose_base_is_unknown_asks_for_it(
    local_registry: Registry, family: dict[str, Path], tmp_path: Path, declared: str | None
) -> None:
    folder = shutil.copytree(family["adapter"], tmp_path / "adapter")
    declare_base(folder, declared)
    with pytest.raises(InvalidRequest, match="name the adapter's base"):
        import_source(local_registry, str(folder), ADAPTER)


def test_the_kind_follows_from_the_source_and_the_base(local_registry: Registry, family: dict[str, Path]) -> None:
    base = import_base(local_registry, family)
    ref = Ref.parse("acme/base")
    tuned = import_source(local_registry, str(family["sharded"]), Name("acme", "tuned"), base=ref)
    assert (tuned.kind, tuned.base) == (Kind.CHECKPOINT, base.digest)
    vector = import_source(
        local_registry, str(family["sharded"]), Name("acme", "vector"), kind=Kind.TASK_VECTOR, base=ref
    )
    assert vector.kind is Kind.TASK_VECTOR
    assert local_registry.lineage.parents(tuned.digest)[0].relation == "base"


def test_metadata_and_parents_are_kept(local_registry: Registry, family: dict[str, Path]) -> None:
    version = import_source(
        local_registry,
        str(family["base"]),
        BASE,
        metadata={"note": "x"},
        parents=[Parent("a" * 64, "merge_input", 0.5)],
    )
    assert version.metadata == {"note": "x"}
    assert local_registry.lineage.parents(version.digest)[0].weight == 0.5


def test_a_link_into_the_folder_is_imported_as_a_file(local_registry: Registry, tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, "f4")}, tmp_path / "real.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "blobs").mkdir()
    shutil.move(tmp_path / "real.safetensors", folder / "blobs" / "data.txt")
    (folder / "model.safetensors").symlink_to("blobs/data.txt")
    version = import_source(local_registry, str(folder), BASE, kind=Kind.BASE)
    assert {file.path for file in version.files} == {"blobs/data.txt", "model.safetensors"}
    assert len({file.sha256 for file in version.files}) == 1


def other_base(registry: Registry, tmp_path: Path) -> None:
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((16, 16), "f4")}, tmp_path / "other.safetensors")
    import_source(registry, str(tmp_path / "other.safetensors"), Name("acme", "other"), kind=Kind.BASE)


def test_a_refused_import_leaves_no_trace(
    local_registry: Registry, family: dict[str, Path], tmp_path: Path, contents: Callable[[], set[str]]
) -> None:
    import_base(local_registry, family)
    other_base(local_registry, tmp_path)
    before, listed = contents(), local_registry.catalog.list()
    adapter, whole = str(family["adapter"]), str(family["sharded"])
    ref = Ref.parse("acme/base")
    bare, half = tmp_path / "bare", tmp_path / "half"
    for folder, kept in ((bare, Path(whole)), (half, Path(adapter))):
        shutil.copytree(kept, folder, ignore=shutil.ignore_patterns("*config.json"))
    unknown = Path(shutil.copytree(adapter, tmp_path / "unknown"))
    (unknown / "adapter_config.json").write_text('{"peft_type": "LOHA"}')

    def stop(stage: str, done: int, total: int) -> None:
        if done == total:
            raise Cancelled(what=stage)

    attempts: list[tuple[type[Exception], str, Name, dict[str, object]]] = [
        (IncompatibleAdapter, adapter, ADAPTER, {"base": Ref.parse("acme/other")}),
        (InvalidAdapter, str(unknown), ADAPTER, {"base": ref}),
        (InvalidAdapter, whole, ADAPTER, {"kind": Kind.ADAPTER}),
        (InvalidAdapter, str(half), ADAPTER, {"base": ref}),
        (InvalidCheckpoint, str(bare), ADAPTER, {"base": ref}),
        (InvalidCheckpoint, str(tmp_path / "other.safetensors"), ADAPTER, {}),
        (InvalidRequest, adapter, ADAPTER, {"kind": Kind.BASE}),
        (InvalidRequest, whole, ADAPTER, {"kind": Kind.RECIPE}),
        (InvalidRequest, whole, ADAPTER, {"kind": Kind.BASE, "base": ref}),
        (InvalidName, whole, ADAPTER, {"aliases": ["v1"]}),
        (KindConflict, adapter, BASE, {"base": ref}),
        (SourceNotFound, str(tmp_path / "absent"), ADAPTER, {}),
        (Cancelled, whole, ADAPTER, {"progress": stop}),
    ]
    for error, source, name, options in attempts:
        with pytest.raises(error):
            import_source(local_registry, source, name, **options)  # type: ignore[arg-type]
        assert contents() == before
    assert local_registry.catalog.list() == listed


def test_an_adapter_of_an_adapter_is_refused(local_registry: Registry, family: dict[str, Path]) -> None:
    import_base(local_registry, family)
    import_source(local_registry, str(family["adapter"]), ADAPTER, base=Ref.parse("acme/base"))
    with pytest.raises(IncompatibleAdapter, match="is of kind adapter"):
        import_source(local_registry, str(family["adapter"]), Name("a", "b"), base=Ref.parse("acme/adapter"))


def test_a_staged_folder_is_linked_and_not_copied(
    local_registry: Registry, family: dict[str, Path], contents: Callable[[], set[str]]
) -> None:
    folder = shutil.copytree(family["sharded"], local_registry.home / "output")
    inodes = {path.name: path.stat().st_ino for path in folder.iterdir()}
    staged = import_source(local_registry, folder, BASE, kind=Kind.CHECKPOINT, move=True)
    for file in staged.files:
        assert local_registry.blobs.path(file.sha256).stat().st_ino == inodes[file.path]
    shutil.rmtree(folder)
    for file in staged.files:
        local_registry.blobs.verify(file.sha256)


def test_what_must_happen_with_the_registration_can_stop_it(
    registry: Registry, family: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(family["base"], tmp_path / "output")
    seen: list[str] = []

    def lost(session: object, version: Version) -> None:
        seen.append(version.ref)
        raise LeaseLost(id="job")

    with pytest.raises(LeaseLost):
        import_source(registry, folder, BASE, also=lost, move=True)
    assert seen == ["acme/base@v1"]
    assert registry.catalog.list() == []
    assert not [path for path in registry.blobs.root.rglob("*") if path.is_file()]
    assert {path.name for path in folder.iterdir()} == {path.name for path in family["base"].iterdir()}
    assert import_source(registry, folder, BASE, move=True).number == 1


def test_blobs_that_another_version_has_survive_a_failed_import(
    local_registry: Registry, family: dict[str, Path]
) -> None:
    version = import_base(local_registry, family)

    def fail(session: object, version: Version) -> None:
        raise LeaseLost(id="job")

    with pytest.raises(LeaseLost):
        import_source(local_registry, family["base"], Name("a", "copy"), also=fail, move=True)
    for file in version.files:
        local_registry.blobs.verify(file.sha256)


def test_a_snapshot_in_the_hubs_cache_is_imported_with_what_it_links_to(
    registry: Registry, family: dict[str, Path], tmp_path: Path
) -> None:
    repository = tmp_path / "models--acme--base"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in family["base"].iterdir():
        shutil.copy(path, repository / "blobs" / digest(path.name.encode()))
        (snapshot / path.name).symlink_to(Path("../../blobs") / digest(path.name.encode()))
    assert import_source(registry, str(snapshot), BASE).digest == import_base(registry, family).digest
    assert all(not path.is_symlink() for path in (repository / "blobs").iterdir())
