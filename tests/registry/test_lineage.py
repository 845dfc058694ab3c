from __future__ import annotations

import pytest
from sqlalchemy import insert, select

from graftwork.errors import RevisionNotFound, VersionInUse, VersionQuarantined
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.tables import EdgeRow, VersionRow
from graftwork.registry.versions.lineage import Direction, Graph
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind, Parent, Version


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
    return {Ref.parse(node.refs[0]).name.name for node in graph.nodes}


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


def test_content_under_two_names_is_one_node_with_both_and_what_was_decided_about_them(registry: Registry) -> None:
    base = add(registry, "base")
    files = list(base.files)
    twin = registry.catalog.register(Name("other", "copy"), Kind.BASE, files)
    child = add(registry, "child", base)
    registry.marks.quarantine(base, actor="ada", reason="poisoned")
    root, below = registry.lineage.graph(twin.digest).nodes
    assert (root.refs, below.refs) == (("acme/base@v1", "other/copy@v1"), ("acme/child@v1",))
    assert [(mark.ref, mark.cause) for mark in root.marks] == [
        ("acme/base@v1", None),
        ("other/copy@v1", "acme/base@v1"),
    ]
    assert [(mark.mark, mark.cause) for mark in below.marks] == [("quarantined", "acme/base@v1")]
    registry.marks.withdraw(child, actor="ada", reason="gone")
    assert registry.lineage.find("acme/child@v1") == child
    assert {mark.mark for mark in registry.lineage.graph(child.digest, 0).nodes[0].marks} == {
        "quarantined",
        "withdrawn",
    }


def test_only_some_relations_are_followed(registry: Registry, versions: dict[str, Version]) -> None:
    graph = registry.lineage.graph(versions["again"].digest, direction="up", relations=["merge_input"])
    assert names(graph) == {"again", "merged", "a", "b"}
    assert {edge.relation for edge in graph.edges} == {"merge_input"}


def test_private_versions_of_others_are_nodes_without_a_name(registry: Registry, versions: dict[str, Version]) -> None:
    secret = registry.catalog.register(
        Name("secret", "deep"),
        Kind.CHECKPOINT,
        list(versions["a"].files),
        parents=[Parent(versions["merged"].digest, "merge_input")],
    )
    last = add(registry, "last", secret)
    registry.repositories.set_private(Name("secret", "deep"), True)
    registry.marks.quarantine(secret, actor="ada", reason="confidential")
    with acting_for(Access("eve", Grants.parse({"acme": ["write"]}))):
        nodes = {
            node.digest: node for node in registry.lineage.graph(versions["merged"].digest, direction="down").nodes
        }
        assert (nodes[secret.digest].refs, nodes[secret.digest].marks) == ((), ())
        assert nodes[last.digest].refs == ("acme/last@v1",)
        assert nodes[last.digest].marks[0].cause is None
        assert nodes[last.digest].marks[0].cause_digest == secret.digest
        with pytest.raises(VersionQuarantined, match=r"because of a private version \(" + secret.digest[:12]):
            registry.marks.require_usable(last)
        with pytest.raises(VersionInUse, match=r"a private version \(" + secret.digest[:12]):
            registry.marks.withdraw(versions["merged"], actor="eve", reason="")
        assert {entry.ref for entry in registry.marks.entries()} == {"acme/last@v1"}


def test_a_wide_graph_is_found_in_few_queries_and_cut_where_asked(
    registry: Registry, versions: dict[str, Version]
) -> None:
    base, count = versions["base"], 2500
    with registry.database.write() as session:
        artifact_id = session.scalars(select(VersionRow).where(VersionRow.digest == base.digest)).one().artifact_id
        made = [
            {"artifact_id": artifact_id, "number": number, "digest": f"{number:064x}", "details": {}, "created_at": 0.0}
            for number in range(2, count + 2)
        ]
        ids = session.scalars(insert(VersionRow).returning(VersionRow.id), made).all()
        edges = [{"child_id": id_, "position": 0, "parent": base.digest, "relation": "base"} for id_ in ids]
        session.execute(insert(EdgeRow), edges)
    graph = registry.lineage.graph(base.digest, direction="down")
    assert (len(graph.nodes), len(graph.edges), graph.truncated) == (count + 5, count + 5, False)
    assert len(registry.marks.quarantine(base, actor="ada", reason="")) == count + 5
    cut = registry.lineage.graph(base.digest, direction="down", limit=100)
    assert (len(cut.edges), cut.truncated) == (100, True)
    assert len(registry.marks.lift(base, actor="ada", reason="")) == count + 5
