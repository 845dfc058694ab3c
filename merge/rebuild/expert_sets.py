"""Expert sets without some of their members: what is left of one, and whether that is still what was trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from graftwork.registry.access.access import doer
from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.experts import CONFIG_FILE, INLINE, WEIGHTS_FILE, Document, Entry, parse_document
from graftwork.registry.formats.safetensors import read_header
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Kind, Parent, Version


def document_of(registry: Registry, version: Version) -> Document:
    """The content of an expert set's `experts.json`."""
    return parse_document(read_object(_file(registry, version, CONFIG_FILE), CONFIG_FILE), version.ref)


def without(registry: Registry, version: Version, out: Collection[str]) -> Document | str:
    """The document without the experts that are one of the adapters `out` (digests); or why there is none.

    What was learned for all experts together means nothing for some of them.
    """
    document = document_of(registry, version)
    kept = tuple(entry for entry in document.experts if entry.adapter not in out)
    if not kept:
        return "none of its experts is left"
    if len(kept) == len(document.experts):
        return document
    if any(file.path == WEIGHTS_FILE for file in version.files):
        header = read_header(_file(registry, version, WEIGHTS_FILE), label=WEIGHTS_FILE)
        learned = next((name for name in header.tensors if INLINE.fullmatch(name) is None), None)
        if learned is not None:
            return f"its {learned} was made for all of its experts: train it again"
    router = document.router
    if isinstance(router.tasks, dict):
        routed = [entry for entry in document.experts if not entry.always]
        places = [place for place, entry in enumerate(routed) if entry in kept]
        tasks = {task: [weights[place] for place in places] for task, weights in router.tasks.items()}
        router = router.model_copy(update={"tasks": tasks})
    if router.top_k is not None:
        router = router.model_copy(update={"top_k": min(router.top_k, sum(not entry.always for entry in kept) or 1)})
    return document.model_copy(update={"experts": kept, "router": router})


def register(
    registry: Registry,
    was: Version,
    document: Document,
    digests: Mapping[str, str],
    name: Name,
    parent: Parent,
    metadata: Mapping[str, object],
) -> Version:
    """Register the set `was` with another document, in which some adapters have other digests.

    Raises what `import_source` raises.
    """
    experts = tuple(_renewed(entry, digests) for entry in document.experts)
    told = document.model_copy(update={"experts": experts}).model_dump(mode="json", exclude_defaults=True)
    with registry.blobs.scratch() as scratch:
        folder = scratch / "expert-set"
        folder.mkdir()
        for file in was.files:
            if file.path == CONFIG_FILE:
                text = json.dumps({**told, "format": document.format}, indent=2, sort_keys=True)
                (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
            else:
                target = folder / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(registry.blobs.path(file.sha256, file.generation), target)
        base = None if was.base is None else Ref.parse(registry.catalog.by_digest(was.base).ref)
        return import_source(
            registry,
            folder,
            name,
            kind=Kind.EXPERT_SET,
            base=base,
            parents=[parent],
            metadata=metadata,
            actor=doer("rebuild"),
            move=True,
        )


def _renewed(entry: Entry, digests: Mapping[str, str]) -> Entry:
    return entry.model_copy(update={"adapter": digests.get(entry.adapter or "", entry.adapter)})


def _file(registry: Registry, version: Version, path: str) -> Path:
    file = next(file for file in version.files if file.path == path)
    return registry.blobs.path(file.sha256, file.generation)
