from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from graftwork.errors import AliasConflict, AliasNotFound, ArtifactNotFound, InvalidName, RevisionNotFound
from graftwork.registry.catalog.aliases import AliasEntry
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind

NAME = Name("acme", "adapter")


@pytest.fixture
def digests(registry: Registry) -> list[str]:
    """The digests of three versions of one artifact."""
    found = []
    for content in (b"1", b"2", b"3"):
        entry = FileEntry("x.txt", *registry.blobs.put_stream([content]))
        found.append(registry.catalog.register(NAME, Kind.ADAPTER, [entry]).digest)
    return found


def test_an_alias_moves_and_every_move_is_kept(registry: Registry, digests: list[str]) -> None:
    aliases = registry.aliases
    aliases.set(NAME, "prod", digests[0], expected=None, actor="ann", reason="first")
    entry = aliases.set(NAME, "prod", digests[1], expected=digests[0], actor="bob", reason="better")
    assert aliases.get(NAME) == {"prod": entry}
    assert (entry.alias, entry.digest) == ("prod", digests[1])
    aliases.set(NAME, "prod", digests[1])
    aliases.delete(NAME, "prod", expected=digests[1], actor="ann", reason="done")
    assert aliases.get(NAME) == {}
    history = aliases.history(NAME, "prod")
    refs = [(move.before_ref, move.after_ref) for move in history]
    assert refs == [(None, f"{NAME}@v1"), (f"{NAME}@v1", f"{NAME}@v2"), (f"{NAME}@v2", None)]
    assert [(move.before, move.after, move.actor, move.reason) for move in history] == [
        (None, digests[0], "ann", "first"),
        (digests[0], digests[1], "bob", "better"),
        (digests[1], None, "ann", "done"),
    ]
    assert history[0].moved_at <= history[1].moved_at <= history[2].moved_at


def test_a_move_from_elsewhere_than_expected_is_refused(registry: Registry, digests: list[str]) -> None:
    aliases = registry.aliases
    with pytest.raises(AliasConflict, match="is at no version"):
        aliases.set(NAME, "prod", digests[0], expected=digests[1])
    aliases.set(NAME, "prod", digests[0])
    for expected in (None, digests[1]):
        with pytest.raises(AliasConflict, match=f"is at {digests[0][:12]}, not at"):
            aliases.set(NAME, "prod", digests[2], expected=expected)
    with pytest.raises(AliasConflict):
        aliases.delete(NAME, "prod", expected=digests[1])
    assert aliases.get(NAME)["prod"].digest == digests[0]
    assert len(aliases.history(NAME, "prod")) == 1


def test_what_is_not_there_is_refused(registry: Registry, digests: list[str]) -> None:
    aliases = registry.aliases
    with pytest.raises(ArtifactNotFound):
        aliases.get(Name("acme", "none"))
    with pytest.raises(RevisionNotFound):
        aliases.set(NAME, "prod", "0" * 64)
    with pytest.raises(InvalidName):
        aliases.set(NAME, "latest", digests[0])
    with pytest.raises(AliasNotFound):
        aliases.delete(NAME, "prod")
    with pytest.raises(AliasNotFound):
        aliases.history(NAME, "prod")


def test_an_alias_stays_within_its_artifact(registry: Registry, digests: list[str]) -> None:
    entry = FileEntry("x.txt", *registry.blobs.put_stream([b"other"]))
    other = registry.catalog.register(Name("acme", "other"), Kind.ADAPTER, [entry])
    with pytest.raises(RevisionNotFound):
        registry.aliases.set(NAME, "prod", other.digest)


@pytest.mark.parametrize("start", ["absent", "present"])
def test_of_many_movers_that_expect_the_same_exactly_one_wins(
    registry: Registry, digests: list[str], start: str
) -> None:
    expected = None
    if start == "present":
        expected = registry.aliases.set(NAME, "prod", digests[0]).digest

    def move(index: int) -> AliasEntry | None:
        try:
            return registry.aliases.set(NAME, "prod", digests[1 + index % 2], expected=expected, actor=str(index))
        except AliasConflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        winners = [entry for entry in pool.map(move, range(16)) if entry is not None]
    assert len(winners) == 1
    assert registry.aliases.get(NAME)["prod"] == winners[0]
    assert len(registry.aliases.history(NAME, "prod")) == (2 if start == "present" else 1)
