"""Making an expert set of adapters that the registry holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftworkError, InvalidExpertSet, SourceNotFound
from graftwork.registry.formats.experts import CONFIG_FILE, FORMAT, WEIGHTS_FILE, parse_document
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind, Version


@dataclass(frozen=True, slots=True)
class Member:
    """An adapter that becomes an expert; without a reference, its factors are in the set's own weights."""

    name: str
    ref: Ref | None
    weight: float = 1.0
    always: bool = False
    deactivate: str | None = None


def create_expert_set(
    registry: Registry,
    name: Name,
    members: Sequence[Member],
    router: Mapping[str, Any],
    *,
    weights: Path | None = None,
    base: Ref | None = None,
    aliases: Sequence[str] = (),
    actor: str = "",
) -> Version:
    """Pin the members to what they point at now, and register the set with them as its parents.

    router:  the fields of `registry.formats.experts.Router` that are not left at their defaults
    weights: a safetensors file of router weights, task tables, output scaling or experts' factors
    base:    needed when no member is an adapter of the registry

    Raises InvalidExpertSet, what resolving a member raises, and what `import_source` raises.
    """
    if weights is not None and not weights.is_file():
        raise SourceNotFound(source=str(weights), expected="a .safetensors file")
    if not members:
        raise InvalidExpertSet(path=name, reason="it has no expert; name at least one member")
    entries = [_entry(registry, member) for member in members]
    document = {"format": FORMAT, "experts": entries, "router": dict(router)}
    parsed = parse_document(document, str(name))
    routed, top_k = sum(not member.always for member in members), parsed.router.top_k
    if parsed.router.unit == "expert" and top_k is not None and top_k > routed:
        raise InvalidExpertSet(path=name, reason=f"its top_k is {top_k}, and it routes {routed}")
    with registry.blobs.scratch() as scratch:
        folder = scratch / "expert-set"
        folder.mkdir()
        text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        if weights is not None:
            shutil.copyfile(weights, folder / WEIGHTS_FILE)
        try:
            return import_source(
                registry, folder, name, kind=Kind.EXPERT_SET, base=base, aliases=aliases, actor=actor, move=True
            )
        except GraftworkError as error:
            raise error.naming(folder, str(name)) from None


def _entry(registry: Registry, member: Member) -> dict[str, object]:
    entry: dict[str, object] = {"name": member.name}
    if member.ref is not None:
        entry["adapter"] = registry.catalog.resolve(member.ref).digest
    if member.weight != 1:
        entry["weight"] = member.weight
    if member.always:
        entry["always"] = True
    if member.deactivate is not None:
        entry["deactivate"] = member.deactivate
    return entry
