"""Quarantine that spreads along the lineage, withdrawal that waits for its users, tags, and the audit log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graftwork.context import request_id
from graftwork.errors import (
    ArtifactNotFound,
    InvalidName,
    InvalidRequest,
    VersionInUse,
    VersionQuarantined,
    VersionWithdrawn,
)
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.marks import Mark
from graftwork.registry.versions.version import Kind, Parent, Relation, Version

Make = Callable[..., Version]


@pytest.fixture
def make(registry: Registry) -> Make:
    def made(name: str, *parents: Version, content: str | None = None) -> Version:
        sha256, size = registry.blobs.put_stream([(content or name).encode()])
        edges = [Parent(parent.digest, Relation.MERGE_INPUT, None, at) for at, parent in enumerate(parents)]
        files = [FileEntry("model.safetensors", sha256, size)]
        return registry.catalog.register(Name.parse(name), Kind.CHECKPOINT, files, parents=edges)

    return made


def usable(registry: Registry, version: Version) -> bool:
    try:
        registry.marks.require_usable(version)
    except VersionQuarantined:
        return False
    return True


def test_a_quarantine_spreads_to_what_was_made_of_a_version_and_goes_with_its_cause(
    registry: Registry, make: Make
) -> None:
    a, b = make("x/a"), make("x/b")
    ab, deep = make("x/ab", a, b), None
    deep = make("x/deep", ab)
    marked = registry.marks.quarantine(a, actor="ada", reason="poisoned")
    assert [(entry.ref, entry.cause) for entry in marked] == [
        ("x/a@v1", None),
        ("x/ab@v1", "x/a@v1"),
        ("x/deep@v1", "x/a@v1"),
    ]
    assert [usable(registry, version) for version in (a, b, ab, deep)] == [False, True, False, False]
    registry.marks.quarantine(b, actor="ada", reason="leaked")
    cleared = registry.marks.lift(a, actor="ada", reason="was a mistake")
    assert [entry.ref for entry in cleared] == ["x/a@v1"]
    assert [usable(registry, version) for version in (a, b, ab, deep)] == [True, False, False, False]
    assert registry.marks.of(deep)[0].cause == "x/b@v1"
    registry.marks.lift(b, actor="ada", reason="patched")
    assert all(usable(registry, version) for version in (a, b, ab, deep))
    assert registry.marks.entries() == []


def test_what_is_made_later_of_a_quarantined_version_is_quarantined_too(registry: Registry, make: Make) -> None:
    a = make("x/a")
    registry.marks.quarantine(a, actor="ada", reason="poisoned")
    child, twin = make("x/child", a), make("y/twin", content="x/a")
    assert twin.digest == a.digest
    assert not usable(registry, child)
    assert not usable(registry, twin)
    with pytest.raises(VersionQuarantined, match=r"x/child@v1 is quarantined \(poisoned, because of x/a@v1\)"):
        registry.aliases.set(child.name, "prod", child.digest)
    with pytest.raises(InvalidRequest, match="because of x/a@v1"):
        registry.marks.lift(child, actor="ada", reason="")
    with pytest.raises(InvalidRequest, match="not quarantined"):
        registry.marks.lift(make("x/other"), actor="ada", reason="")


def test_a_version_is_withdrawn_once_nothing_refers_to_it(registry: Registry, make: Make) -> None:
    old, new = make("x/a", content="1"), make("x/a", content="2")
    child = make("x/child", new)
    registry.aliases.set(new.name, "prod", new.digest)
    with pytest.raises(VersionInUse, match=r"x/a@v2 cannot .*: the alias prod, x/child@v1"):
        registry.marks.withdraw(new, actor="ada", reason="")
    registry.aliases.delete(new.name, "prod")
    registry.marks.withdraw(child, actor="ada", reason="retired")
    registry.marks.withdraw(new, actor="ada", reason="retired")
    assert registry.catalog.resolve("x/a").digest == old.digest
    assert registry.catalog.get(old.name).latest.digest == old.digest
    with pytest.raises(VersionWithdrawn, match=r"x/a@v2 was withdrawn \(retired\)"):
        registry.catalog.resolve("x/a@v2")
    with pytest.raises(VersionWithdrawn):
        registry.aliases.set(new.name, "prod", new.digest)
    with pytest.raises(ArtifactNotFound):
        registry.catalog.get(child.name)
    assert [str(artifact.name) for artifact in registry.catalog.list()] == ["x/a"]
    assert [edge.child for edge in registry.lineage.graph(child.digest).edges] == [child.digest]
    assert {(entry.ref, entry.mark) for entry in registry.marks.entries(Mark.WITHDRAWN)} == {
        ("x/a@v2", Mark.WITHDRAWN),
        ("x/child@v1", Mark.WITHDRAWN),
    }


def test_content_under_two_names_may_lose_one_of_them(registry: Registry, make: Make) -> None:
    first, second = make("x/a", content="same"), make("y/a", content="same")
    make("x/child", first)
    registry.marks.withdraw(first, actor="ada", reason="")
    with pytest.raises(VersionInUse, match="x/child@v1"):
        registry.marks.withdraw(second, actor="ada", reason="")


def test_what_was_withdrawn_is_told_under_a_name_that_may_be_seen(registry: Registry, make: Make) -> None:
    hidden, open_ = make("x/hidden", content="same"), make("y/a", content="same")
    registry.repositories.set_private(hidden.name, True)
    for version in (hidden, open_):
        registry.marks.withdraw(version, actor="ada", reason="")
    with acting_for(Access("eve", Grants.parse({"y": ["read"]}))), pytest.raises(VersionWithdrawn, match=r"^y/a@v1 "):
        registry.catalog.require_present(open_)


def test_tags_find_artifacts(registry: Registry, make: Make) -> None:
    for name in ("x/b", "x/a", "y/c"):
        make(name)
    for name in ("x/b", "x/a"):
        registry.tags.set(Name.parse(name), ["nightly", "german"])
    assert [str(name) for name in registry.tags.artifacts("nightly")] == ["x/a", "x/b"]
    assert registry.tags.set(Name.parse("x/a"), ["german"]) == ["german"] == registry.tags.get(Name.parse("x/a"))
    assert [str(name) for name in registry.tags.artifacts("nightly")] == ["x/b"]
    with pytest.raises(InvalidName, match="tag"):
        registry.tags.set(Name.parse("x/a"), ["no spaces"])


def test_the_audit_log_says_who_did_what_in_which_request(registry: Registry, make: Make) -> None:
    a = make("x/a")
    token = request_id.set("r-1")
    registry.marks.quarantine(a, actor="ada", reason="poisoned")
    request_id.reset(token)
    registry.marks.lift(a, actor="eve", reason="")
    registry.tags.set(a.name, ["t"], actor="eve")
    registry.aliases.set(a.name, "prod", a.digest, actor="eve", reason="good")
    registry.aliases.delete(a.name, "prod", actor="eve")
    entries = registry.audit.entries()
    assert [(entry.actor, entry.action, entry.target, entry.request) for entry in entries] == [
        ("eve", "alias.delete", "x/a@prod", None),
        ("eve", "alias.move", "x/a@prod", None),
        ("eve", "artifact.tags", "x/a", None),
        ("eve", "version.lift", "x/a@v1", None),
        ("ada", "version.quarantine", "x/a@v1", "r-1"),
        ("", "version.register", "x/a@v1", None),
    ]
    assert entries[1].details == {"before": None, "after": a.digest, "reason": "good"}
    assert entries[4].details == {"digest": a.digest, "reason": "poisoned"}
    assert len(registry.audit.entries(target="x/a")) == 6
    assert registry.audit.entries(target="x") == entries
    assert registry.audit.entries(action="alias") == entries[:2]
    assert registry.audit.entries(action="alias.move") == entries[1:2]
    assert registry.audit.entries(actor="ada", before=entries[4].id) == []


def test_what_was_withdrawn_is_not_said_to_be_usable_once_its_quarantine_is_lifted(
    registry: Registry, make: Make
) -> None:
    a = make("x/a")
    b = make("x/b", a)
    registry.marks.quarantine(a, actor="ada", reason="poisoned")
    registry.marks.withdraw(b, actor="ada", reason="")
    assert [entry.ref for entry in registry.marks.lift(a, actor="ada", reason="")] == ["x/a@v1"]
