"""What a tree of files lacks to be a model, and what it is a version of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from graftwork.errors import ArtifactNotFound, InvalidReference, InvalidRequest, NotFound
from graftwork.registry.formats import experts
from graftwork.registry.formats.checkpoint import INDEX_SUFFIX
from graftwork.registry.formats.config import read_object
from graftwork.registry.formats.peft import CONFIG_FILE, WEIGHTS_FILE
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind, Version

MODEL_CONFIG = "config.json"
CARD = "README.md"
MAX_CARD_BYTES = 256_000
MAX_FRONT_BYTES = 64_000
MAIN = "main"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a tree is to be registered as: None where its content says it."""

    kind: Kind | None
    base: Ref | None


def missing_from(folder: Path, tree: Mapping[str, FileEntry]) -> str | None:
    """What keeps the tree in `folder` from being a model, in a few words; None when nothing is missing.

    Raises InvalidCheckpoint, TooLarge for an index that cannot be read.
    """
    if experts.CONFIG_FILE in tree:
        return None
    if CONFIG_FILE in tree or WEIGHTS_FILE in tree:
        lacking = [needed for needed in (CONFIG_FILE, WEIGHTS_FILE) if needed not in tree]
        return f"it has no {lacking[0]}" if lacking else None
    weights = [path for path in tree if path.endswith(".safetensors")]
    indexes = [path for path in tree if path.endswith(INDEX_SUFFIX) and "/" not in path]
    if len(indexes) == 1:
        weight_map = read_object(folder / indexes[0], indexes[0]).get("weight_map")
        shards = sorted({str(shard) for shard in weight_map.values()}) if isinstance(weight_map, dict) else []
        lacking = [shard for shard in shards if shard not in tree]
        if lacking:
            return f"it has no {lacking[0]}, which {indexes[0]} names"
    elif not weights:
        return "it has no weights"
    elif len(weights) > 1 and not indexes:
        return f"it has {len(weights)} files of weights and no {INDEX_SUFFIX[1:]}"
    return None if MODEL_CONFIG in tree else f"it has no {MODEL_CONFIG}"


def origin_of(registry: Registry, name: Name, folder: Path, tree: Mapping[str, FileEntry]) -> Origin:
    """What the tree in `folder` is, for the repository `name`, and which artifact it belongs on.

    An adapter belongs on the artifact that its configuration names, or, when that is none of this registry's, on the
    base of the version before; so does a checkpoint with the `base_model` of its card. Raises InvalidRequest for an
    adapter whose base is not here.
    """
    before = _newest(registry, name)
    if experts.CONFIG_FILE in tree:
        return Origin(Kind.EXPERT_SET, None)
    if CONFIG_FILE in tree:
        return Origin(Kind.ADAPTER, _adapter_base(registry, folder, tree, before))
    if before is not None and before.kind is not Kind.BASE:
        return Origin(before.kind, _same_base(registry, before))
    base = None if before is not None else _card_base(registry, folder, tree)
    return Origin(None if base is None else Kind.CHECKPOINT, base)


def _adapter_base(registry: Registry, folder: Path, tree: Mapping[str, FileEntry], before: Version | None) -> Ref:
    if before is not None and tree[CONFIG_FILE] in before.files and (same := _same_base(registry, before)) is not None:
        return same
    config = read_object(folder / CONFIG_FILE, CONFIG_FILE)
    declared, revision = config.get("base_model_name_or_path"), config.get("revision")
    found = _resolve(registry, declared, revision)
    if found is not None:
        return found
    if before is not None and (same := _same_base(registry, before)) is not None:
        return same
    at = f" at the revision {revision!r}" if revision else ""
    said = f"says {declared!r}{at}, which is not in this registry" if declared else "names none"
    reason = (
        f"{CONFIG_FILE} {said}; push the base first and set base_model_name_or_path to its NAMESPACE/NAME "
        "(model.peft_config['default'].base_model_name_or_path before push_to_hub)"
    )
    raise InvalidRequest(field="base", reason=reason)


def _resolve(registry: Registry, declared: object, revision: object) -> Ref | None:
    """The version of this registry that `declared` and `revision` name now, pinned by its number."""
    if not isinstance(declared, str):
        return None
    try:
        ref = Ref.parse(declared)
        if isinstance(revision, str) and revision and revision != MAIN and ref.revision is None:
            ref = Ref.parse(f"{declared}@{revision}")
        return Ref.parse(registry.catalog.resolve(ref).ref)
    except (InvalidReference, NotFound):
        return None


def _newest(registry: Registry, name: Name) -> Version | None:
    try:
        return registry.catalog.get(name).latest
    except ArtifactNotFound:
        return None


def _same_base(registry: Registry, before: Version) -> Ref | None:
    return None if before.base is None else Ref.parse(registry.catalog.by_digest(before.base).ref)


def _card_base(registry: Registry, folder: Path, tree: Mapping[str, FileEntry]) -> Ref | None:
    entry = tree.get(CARD)
    if entry is None or entry.size > MAX_CARD_BYTES:
        return None
    front = front_matter((folder / CARD).read_bytes())
    named = front.get("base_model")
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    return _resolve(registry, named, None)


def front_matter(card: bytes) -> dict[str, object]:
    """The metadata at the top of a model card; nothing where there is none that is plain."""
    text = card.decode("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith("---\n") or (end := text.find("\n---", 3)) < 0 or end > MAX_FRONT_BYTES:
        return {}
    try:
        # an alias may stand for a value that would fill the memory when it is written out
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text[4:end], Loader=yaml.SafeLoader)):
            return {}
        value = yaml.safe_load(text[4:end])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
