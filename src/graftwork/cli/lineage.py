"""`graft lineage`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text
from rich.tree import Tree

from graftwork.api.schemas.lineage import EdgeOut, LineageOut
from graftwork.cli.options import home_option, json_option
from graftwork.cli.render import KIND_STYLES, console, print_json
from graftwork.registry.lineage import Direction
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings


@click.command()
@click.argument("ref")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made from it.")
@click.option("--depth", type=click.IntRange(0), metavar="N", help="How many steps to follow [default: all].")
@home_option
@json_option
def lineage(ref: str, up: bool, down: bool, depth: int | None, home: Path | None, as_json: bool) -> None:
    """Draw what a version was made from and what was made from it.

    \b
    Example:
        graft lineage acme/support@prod --up
    """
    direction: Direction = "both" if up == down else "up" if up else "down"
    with Registry.open(load_settings(home=home)) as registry:
        version = registry.catalog.resolve(ref)
        graph = LineageOut.of(version, registry.lineage.graph(version.digest, depth, direction))
    if as_json:
        print_json(graph)
        return
    tree = Tree(_label(graph, graph.root), guide_style="dim")
    if direction != "down":
        _grow(tree, graph, graph.root, "up", "made from")
    if direction != "up":
        _grow(tree, graph, graph.root, "down", "made into")
    console().print(tree)


def _grow(tree: Tree, graph: LineageOut, digest: str, way: Direction, title: str | None = None) -> None:
    """Add a branch for each parent (`up`) or child (`down`) of `digest`, under a heading when there is a `title`."""
    edges = [edge for edge in graph.edges if (edge.child if way == "up" else edge.parent) == digest]
    if not edges:
        return
    branch = tree.add(Text(title, style="italic dim")) if title else tree
    for edge in edges:
        there = edge.parent if way == "up" else edge.child
        _grow(branch.add(_label(graph, there, edge)), graph, there, way)


def _label(graph: LineageOut, digest: str, edge: EdgeOut | None = None) -> Text:
    node = next((node for node in graph.nodes if node.digest == digest), None)
    label = Text(node.ref, style=KIND_STYLES.get(node.kind, "")) if node else Text("not in this registry", style="red")
    label.append(f"  {digest[:12]}", style="dim")
    if edge is not None:
        label.append(f"  {edge.relation.replace('_', ' ')}", style="dim italic")
        if edge.weight is not None:
            label.append(f"  × {edge.weight:g}", style="dim")  # noqa: RUF001
    return label
