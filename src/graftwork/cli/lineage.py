"""`graft lineage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from rich.text import Text
from rich.tree import Tree

from graftwork.api.schemas.lineage import EdgeOut, LineageOut, NodeOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import KIND_STYLES, console, print_json
from graftwork.client import artifacts as calls
from graftwork.registry.registry import Registry
from graftwork.registry.versions.lineage import Direction
from graftwork.registry.versions.version import Relation


@click.command()
@click.argument("ref")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="How many steps to follow [default: all].")
@click.option(
    "--relation",
    "relations",
    type=click.Choice([relation.value for relation in Relation]),
    metavar="RELATION",
    multiple=True,
    help="Follow only this relation, such as merge_input; may be repeated.",
)
@place_option
@json_option
def lineage(
    ref: str,
    up: bool,
    down: bool,
    depth: int | None,
    relations: tuple[str, ...],
    place: Place,
    as_json: bool,
) -> None:
    """Draw what a version was made from and what was made from it.

    What is quarantined or was withdrawn is marked, and the newest scores are shown.

    \b
    Example:
        graft lineage acme/support@prod --up
    """
    direction: Direction = "both" if up == down else "up" if up else "down"

    def here(registry: Registry) -> LineageOut:
        version = registry.lineage.find(ref)
        return LineageOut.of(version, registry.lineage.graph(version.digest, depth, direction, relations=relations))

    graph = place(here, lambda graft: graft(calls.lineage(ref, direction=direction, depth=depth, relations=relations)))
    if as_json:
        print_json(graph)
        return
    nodes = {node.digest: node for node in graph.nodes}
    tree = Tree(_label(nodes, graph.root), guide_style="dim")
    for title, parent_first in (("made from", False), ("made into", True)):
        if direction != ("up" if parent_first else "down"):
            _Branches(graph, nodes, down=parent_first).grow(tree, title)
    console().print(tree)


class _Branches:
    """The edges of a graph in one direction, each version with its own ones drawn once."""

    def __init__(self, graph: LineageOut, nodes: Mapping[str, NodeOut], *, down: bool) -> None:
        self._nodes = nodes
        self._root = graph.root
        self._down = down
        self._edges: dict[str, list[EdgeOut]] = {}
        self._drawn: set[str] = set()
        for edge in graph.edges:
            self._edges.setdefault(edge.parent if down else edge.child, []).append(edge)

    def grow(self, tree: Tree, title: str) -> None:
        """Draw everything beyond the root under a heading, if there is anything."""
        if self._root in self._edges:
            self._grow(tree.add(Text(title, style="italic dim")), self._root)

    def _grow(self, branch: Tree, digest: str) -> None:
        self._drawn.add(digest)
        for edge in self._edges.get(digest, ()):
            there = edge.child if self._down else edge.parent
            label = _label(self._nodes, there, edge)
            if there in self._drawn and there in self._edges:
                branch.add(label.append("  (see above)", style="dim"))
            else:
                self._grow(branch.add(label), there)


def _label(nodes: Mapping[str, NodeOut], digest: str, edge: EdgeOut | None = None) -> Text:
    node = nodes.get(digest)
    if node is None:
        label = Text("not in this registry", style="red")
    else:
        label = Text(node.ref or "private", style=KIND_STYLES.get(node.kind, ""))
        for other in node.refs:
            if other != node.ref:
                label.append(f" = {other}", style="dim")
    label.append(f"  {digest[:12]}", style="dim")
    if edge is not None:
        label.append(f"  {edge.relation.replace('_', ' ')}", style="dim italic")
        if edge.weight is not None:
            label.append(f"  × {edge.weight:g}", style="dim")  # noqa: RUF001
    for word in _marks(node):
        label.append(f"  {word}", style="bold red")
    for score in node.scores if node is not None else ():
        label.append(f"  {score.metric} {score.value:.4g}", style="green")
    return label


def _marks(node: NodeOut | None) -> Sequence[str]:
    words = []
    for mark in node.marks if node is not None else ():
        cause = "" if mark.cause_digest is None else f" because of {mark.cause or mark.cause_digest[:12]}"
        word = f"{mark.mark}{cause}" + (f" ({mark.reason})" if mark.reason and not cause else "")
        words.append(word)
    return list(dict.fromkeys(words))
