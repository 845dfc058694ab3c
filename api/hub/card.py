"""The model card of a version that has no `README.md`: what the registry knows of it, in the Hub's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from graftwork.errors import NotFound
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.versions.lineage import Edge
from graftwork.registry.versions.version import Kind, Relation, Version

CARD = "README.md"
LIBRARIES = {Kind.ADAPTER: "peft", Kind.BASE: "transformers", Kind.CHECKPOINT: "transformers"}
MERGED = (Relation.MERGE_INPUT, Relation.MERGE_BASE)
BASES = (Relation.BASE, Relation.ADAPTER_OF)


def card_data(registry: Registry, version: Version) -> dict[str, Any]:
    """The metadata of the card: `base_model`, `base_model_relation`, `library_name`, `tags`."""
    edges = registry.lineage.parents(version.digest)
    merged = [edge for edge in edges if edge.relation in MERGED]
    data: dict[str, Any] = {}
    parents = _names(registry, version, merged or [edge for edge in edges if edge.relation in BASES])
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


def _names(registry: Registry, version: Version, edges: Sequence[Edge]) -> list[str]:
    """The names of parents, each once; of a private one only where the version itself is as private."""
    names: dict[str, None] = {}
    own_is_private = registry.catalog.is_private(version.name)
    for edge in edges:
        try:
            name = registry.catalog.by_digest(edge.parent).name
        except NotFound:
            continue
        if not registry.catalog.is_private(name) or (own_is_private and _beside(name, version.name)):
            names[str(name)] = None
    return list(names)


def _beside(name: Name, other: Name) -> bool:
    return name.namespace.lower() == other.namespace.lower()
