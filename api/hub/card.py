"""The model card of a version that has no `README.md`: what the registry knows of it, in the Hub's words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import yaml

from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions.lineage import Edge, Graph
from graftwork.registry.versions.version import Kind, Relation, Version

CARD = "README.md"
LIBRARIES = {Kind.ADAPTER: "peft", Kind.BASE: "transformers", Kind.CHECKPOINT: "transformers"}
MERGED = (Relation.MERGE_INPUT, Relation.MERGE_BASE)
BASES = (Relation.BASE, Relation.ADAPTER_OF)


def card_data(registry: Registry, version: Version) -> dict[str, Any]:
    """The metadata of the card: `base_model`, `base_model_relation`, `library_name`, `tags`."""
    graph = registry.lineage.graph(version.digest, depth=1, direction="up")
    merged = [edge for edge in graph.edges if edge.relation in MERGED]
    data: dict[str, Any] = {}
    parents = _names(registry, version, graph, merged or [edge for edge in graph.edges if edge.relation in BASES])
    if parents:
        data["base_model"] = parents if len(parents) > 1 else parents[0]
        data["base_model_relation"] = _relation(version, merged)
    if version.kind in LIBRARIES:
        data["library_name"] = LIBRARIES[version.kind]
    data["tags"] = ["graftwork", str(version.kind), *(["merge"] if merged else [])]
    return data


def card(registry: Registry, version: Version) -> bytes:
    """The whole card."""
    data = card_data(registry, version)
    lines = ["---", yaml.safe_dump(data, sort_keys=False).rstrip(), "---", f"# {version.name}", ""]
    lines += [f"Version {version.number}, digest `{version.digest}`.", ""]
    named = data.get("base_model")
    if named is not None:
        parents = [named] if isinstance(named, str) else named
        lines += [f"{_said(data['base_model_relation'])} {', '.join(f'`{name}`' for name in parents)}.", ""]
    return "\n".join(lines).encode()


def _relation(version: Version, merged: Sequence[Edge]) -> str:
    if merged:
        return "merge"
    return "adapter" if version.kind in (Kind.ADAPTER, Kind.EXPERT_SET) else "finetune"


def _said(relation: str) -> str:
    return {"merge": "Merged from", "adapter": "Belongs on", "finetune": "Made from"}[relation]


def _names(registry: Registry, version: Version, graph: Graph, edges: Sequence[Edge]) -> list[str]:
    """A name of each parent, the oldest of those that whoever sees the version may see, be it whoever it is."""
    refs = {node.digest: node.refs for node in graph.nodes}
    own_is_private = registry.catalog.is_private(version.name)

    def told(name: Name) -> bool:
        beside = name.namespace.lower() == version.name.namespace.lower()
        return (own_is_private and beside) or not registry.catalog.is_private(name)

    found: dict[str, None] = {}
    for edge in edges:
        names = (Ref.parse(ref).name for ref in refs.get(edge.parent, ()))
        found.update((str(name), None) for name in islice(filter(told, names), 1))
    return list(found)
