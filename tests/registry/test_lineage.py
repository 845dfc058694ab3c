from __future__ import annotations

import pytest

from graftwork.errors import RevisionNotFound
from graftwork.registry.catalog import FileEntry, Kind, Parent, Version
from graftwork.registry.lineage import Direction, Graph
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry


def add(registry: Registry, name: str, *parents: Version | str, base: Version | None = None) -> Version:
    entry = FileEntry("x.txt", *registry.blobs.put_stream([name.encode()]))
    digests = [parent if isinstance(parent, str) else parent.digest for parent in parents]
    return registry.catalog.register(
        Name("acme", name),
        Kind.CHECKPOINT if parents or base else Kind.BASE,
        [entry],
        base=base.digest if base else None,
        parents=[Parent(digest, "merge_input", 1.0, index) for index, digest in enumerate(digests)],
    )


@pytest.fixture
def versions(registry: Registry) -> dict[str, Version]:
    """base -> a, b -> merged -> again; `again` also has a parent from elsewhere."""
    base = add(registry, "base")
    a, b = add(registry, "a", base=base), add(registry, "b", base=base)
    merged = add(registry, "merged", a, b)
    again = add(registry, "again", merged, "f" * 64)
    return {"base": base, "a": a, "b": b, "merged": merged, "again": again}


def names(graph: Graph) -> set[str]:
    return {node.name.name for node in graph.nodes}


def test_neighbours_are_found_both_ways(registry: Registry, versions: dict[str, Version]) -> None:
    merged = versions["merged"]
    assert [edge.parent for edge in registry.lineage.parents(merged.digest)] == [
        versions["a"].digest,
        versions["b"].digest,
    ]
    assert [edge.child for edge in registry.lineage.children(merged.digest)] == [versions["again"].digest]
    assert registry.lineage.parents(versions["base"].digest) == []


@pytest.mark.parametrize(
    ("start", "direction", "depth", "expected", "edges"),
    [
        ("again", "up", None, {"again", "merged", "a", "b", "base"}, 6),
        ("again", "up", 1, {"again", "merged"}, 2),
        ("again", "up", 0, {"again"}, 0),
        ("base", "down", None, {"again", "merged", "a", "b", "base"}, 5),
        ("base", "down", 2, {"merged", "a", "b", "base"}, 4),
        ("merged", "both", 1, {"merged", "a", "b", "again"}, 3),
        ("merged", "both", None, {"again", "merged", "a", "b", "base"}, 5),
    ],
)
def test_a_graph_reaches_as_far_as_asked(
    registry: Registry,
    versions: dict[str, Version],
    start: str,
    direction: Direction,
    depth: int | None,
    expected: set[str],
    edges: int,
) -> None:
    graph = registry.lineage.graph(versions[start].digest, depth=depth, direction=direction)
    assert names(graph) == expected
    assert len(graph.edges) == edges == len(set(graph.edges))


def test_a_digest_that_is_not_here_has_no_graph(registry: Registry) -> None:
    with pytest.raises(RevisionNotFound):
        registry.lineage.graph("0" * 64)
