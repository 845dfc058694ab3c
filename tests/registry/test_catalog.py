from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from graftwork.errors import (
    ArtifactNotFound,
    CorruptBlob,
    InvalidName,
    InvalidReference,
    KindConflict,
    RevisionNotFound,
    UnsafeFile,
)
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind, Parent, TensorRecord, Version

NAME = Name("acme", "Model")


def put(registry: Registry, content: str, path: str = "model.safetensors") -> FileEntry:
    sha256, size = registry.blobs.put_stream([content.encode()])
    return FileEntry(path, sha256, size)


def add(registry: Registry, content: str, name: Name = NAME, kind: Kind = Kind.BASE, **options: object) -> Version:
    return registry.catalog.register(name, kind, [put(registry, content)], **options)  # type: ignore[arg-type]


def test_a_version_is_what_was_registered(registry: Registry) -> None:
    files = [put(registry, "weights"), put(registry, "{}", "config.json")]
    version = registry.catalog.register(NAME, Kind.BASE, files, metadata={"licence": "MIT", "n": [1, {"é": None}]})
    assert (version.name, version.kind, version.number, version.base) == (NAME, Kind.BASE, 1, None)
    assert version.files == tuple(sorted(files, key=lambda file: file.path))
    assert version.metadata == {"licence": "MIT", "n": [1, {"é": None}]}
    assert version.ref == "acme/Model@v1"
    assert version.size == 9
    assert registry.catalog.resolve("acme/Model") == version
    assert registry.catalog.by_digest(version.digest) == version


def test_the_digest_is_of_the_canonical_manifest(registry: Registry) -> None:
    files = [put(registry, "b", "b.txt"), put(registry, "a", "a.txt")]
    version = registry.catalog.register(NAME, Kind.BASE, files)
    lines = ",".join(f'["{c}.txt","{hashlib.sha256(c.encode()).hexdigest()}",1]' for c in "ab")
    manifest = f'{{"base":null,"files":[{lines}],"kind":"base","schema":1}}'
    assert json.loads(manifest)["schema"] == 1
    assert version.digest == hashlib.sha256(manifest.encode()).hexdigest()
    assert version.revision == version.digest[:40]


def test_the_same_content_is_the_same_version(registry: Registry) -> None:
    first, other, again = add(registry, "one"), add(registry, "two"), add(registry, "one")
    assert (first.number, other.number) == (1, 2)
    assert again == first
    assert [version.number for version in registry.catalog.versions(NAME)] == [2, 1]
    elsewhere = add(registry, "one", Name("acme", "copy"))
    assert elsewhere.digest == first.digest
    assert elsewhere.number == 1


def test_names_differ_by_more_than_case(registry: Registry) -> None:
    first = add(registry, "one")
    second = add(registry, "two", Name("ACME", "mODEL"))
    assert (second.name, second.number) == (NAME, 2)
    assert registry.catalog.resolve("aCmE/model@v1") == first


def test_an_artifact_has_one_kind(registry: Registry) -> None:
    add(registry, "one")
    for attempt in (
        lambda: add(registry, "x", kind=Kind.RECIPE),
        lambda: registry.catalog.check_kind(NAME, Kind.RECIPE),
    ):
        with pytest.raises(KindConflict, match="acme/Model is of kind base and cannot take"):
            attempt()
    registry.catalog.check_kind(Name("acme", "new"), Kind.RECIPE)
    assert len(registry.catalog.versions(NAME)) == 1


def test_a_reference_finds_its_version(registry: Registry) -> None:
    first = add(registry, "one", aliases=["prod", "deadbeef"])
    second = add(registry, "two")
    resolve = registry.catalog.resolve
    assert resolve("acme/model") == resolve("acme/model@latest") == resolve("acme/model@v2") == second
    assert resolve("acme/model@prod") == resolve("acme/model@deadbeef") == resolve("acme/model@v1") == first
    for digits in (8, 12, 40, 64):
        assert resolve(f"acme/model@{first.digest[:digits]}") == first
        assert resolve(f"acme/model@{first.digest[:digits].upper()}") == first


def test_what_is_not_there_is_named_with_what_is(registry: Registry) -> None:
    with pytest.raises(ArtifactNotFound, match="acme/none"):
        registry.catalog.resolve("acme/none@v1")
    add(registry, "one", aliases=["prod"])
    for revision in ("v2", "v999999999", "v9999999999", "staging", "0" * 8):
        with pytest.raises(RevisionNotFound, match=f"'{revision}'; it has prod, v1"):
            registry.catalog.resolve(f"acme/model@{revision}")
    with pytest.raises(RevisionNotFound):
        registry.catalog.by_digest("0" * 64)


def test_ambiguous_digits_are_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter(["abcdef01" + "0" * 56, "abcdef01" + "1" * 56])
    monkeypatch.setattr("graftwork.registry.catalog.registration.manifest_digest", lambda *manifest: next(digests))
    add(registry, "one")
    add(registry, "two")
    with pytest.raises(InvalidReference, match="more digits"):
        registry.catalog.resolve("acme/model@abcdef01")
    assert registry.catalog.resolve("acme/model@abcdef011").number == 2


def test_a_rejected_registration_leaves_no_trace(registry: Registry) -> None:
    stored = put(registry, "one")
    gone = FileEntry("x.txt", "0" * 64, 1)
    base = "1" * 64
    attempts: list[tuple[type[Exception], list[FileEntry], dict[str, object]]] = [
        (CorruptBlob, [stored, gone], {}),
        (RevisionNotFound, [stored], {"base": base}),
        (InvalidName, [stored], {"aliases": ["ok", "latest"]}),
        (UnsafeFile, [FileEntry("../x", stored.sha256, stored.size)], {}),
    ]
    for error, files, options in attempts:
        with pytest.raises(error):
            registry.catalog.register(NAME, Kind.BASE, files, **options)  # type: ignore[arg-type]
    assert registry.catalog.list() == []


def test_the_tensor_index_comes_back_in_order(registry: Registry) -> None:
    files = [put(registry, "one", "b.safetensors"), put(registry, "two", "a.safetensors")]
    records = [
        TensorRecord("z", "BF16", (2, 3), "b.safetensors", 80, 92, "ab" * 32),
        TensorRecord("a", "F32", (), "b.safetensors", 92, 96, "cd" * 32),
        TensorRecord("m", "I64", (0, 2**31 - 1), "a.safetensors", 2**40, 2**40, "ef" * 32),
    ]
    version = registry.catalog.register(NAME, Kind.BASE, files, tensors=records)
    assert registry.catalog.tensors(version) == [records[2], *records[:2]]
    renamed = registry.catalog.register(Name("acme", "b"), Kind.BASE, [FileEntry("c.safetensors", *list_of(files[0]))])
    assert [(record.name, record.file) for record in registry.catalog.tensors(renamed)] == [
        ("z", "c.safetensors"),
        ("a", "c.safetensors"),
    ]


def list_of(file: FileEntry) -> tuple[str, int]:
    return file.sha256, file.size


def test_listing_filters_and_pages(registry: Registry) -> None:
    for index in range(5):
        add(registry, f"base {index}", Name("acme", f"Base-{index}"))
        add(registry, f"other {index}", Name("other", f"thing_{index}"), Kind.CHECKPOINT)
    add(registry, "newer", Name("acme", "base-0"), aliases=["prod"])
    listed = registry.catalog.list
    names = [str(artifact.name) for artifact in listed()]
    assert names == sorted(names, key=str.lower)
    assert len(names) == 10
    pages = []
    after = None
    while page := listed(limit=3, after=after):
        pages += [str(artifact.name) for artifact in page]
        after = pages[-1]
    assert pages == names
    assert {artifact.kind for artifact in listed(kind=Kind.CHECKPOINT)} == {Kind.CHECKPOINT}
    assert len(listed(namespace="ACME")) == 5
    assert [str(artifact.name) for artifact in listed(search="BASE-3")] == ["acme/Base-3"]
    assert listed(search="%") == []
    assert len(listed(search="g_")) == 5
    first = listed(limit=1)[0]
    assert (first.versions, first.latest.number, first.aliases) == (2, 2, {"prod": first.latest.digest})
    assert registry.catalog.get(Name("ACME", "BASE-0")) == first


def test_registering_from_many_threads_numbers_every_version_once(registry: Registry) -> None:
    files = [put(registry, f"content {index % 8}") for index in range(16)]
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda file: registry.catalog.register(NAME, Kind.BASE, [file]), files))
    assert sorted({version.number for version in versions}) == list(range(1, 9))
    assert len({version.digest for version in versions}) == 8


def test_parents_are_kept_in_order_with_the_base(registry: Registry) -> None:
    base = add(registry, "base", Name("acme", "base"))
    inputs = [Parent("2" * 64, "merge_input", 0.5, 1), Parent("3" * 64, "merge_input", -1.0, 0)]
    merged = add(registry, "merged", kind=Kind.CHECKPOINT, base=base.digest, parents=inputs)
    edges = registry.lineage.parents(merged.digest)
    assert [(edge.parent[0], edge.relation, edge.weight, edge.position) for edge in edges[:2]] == [
        ("3", "merge_input", -1.0, 0),
        ("2", "merge_input", 0.5, 1),
    ]
    assert (edges[2].parent, edges[2].relation) == (base.digest, "base")


def test_a_hundred_thousand_tensors_are_indexed_in_seconds(local_registry: Registry) -> None:
    import time

    file = put(local_registry, "big")
    records = [
        TensorRecord(f"model.layers.{index}.mlp.experts.w", "BF16", (1, 1), file.path, index, index + 1, "ab" * 32)
        for index in range(100_000)
    ]
    started = time.monotonic()
    version = local_registry.catalog.register(NAME, Kind.BASE, [file], tensors=records)
    assert local_registry.catalog.tensors(version) == records
    assert time.monotonic() - started < 20


def test_content_keeps_the_name_that_it_had_first(registry: Registry) -> None:
    first = add(registry, "same", Name("fam", "base"))
    again = add(registry, "same", Name("acme", "secret"))
    assert registry.catalog.by_digest(again.digest).ref == "fam/base@v1"
    registry.marks.withdraw(first, actor="", reason="")
    assert registry.catalog.by_digest(again.digest).ref == "acme/secret@v1"


def test_a_name_that_is_nearly_right_is_told_with_the_right_one_that_may_be_seen(registry: Registry) -> None:
    add(registry, "a", Name("acme", "llama-both"))
    with pytest.raises(ArtifactNotFound, match=r"acme/llama-bth in the registry, but there is acme/llama-both\."):
        registry.catalog.resolve("acme/llama-bth")
    registry.repositories.set_private(Name("acme", "llama-both"), True)
    with acting_for(Access("eve", Grants.parse({"other": ["read"]}))):
        for name in ("acme/llama-bth", "acme/llama-both"):
            with pytest.raises(ArtifactNotFound, match=r"in the registry\.$"):
                registry.catalog.resolve(name)
