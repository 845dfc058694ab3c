"""JSON files that travel with weights: parsed with a limit, refused when they point at code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from graftwork.errors import InvalidCheckpoint, TooLarge, UnsafeFile

ADAPTER_CONFIG_FILE = "adapter_config.json"
"""What makes a folder an adapter."""
MAX_JSON_BYTES = 64_000_000
MAX_SCANNED_BYTES = 4_000_000
"""Larger files of JSON are vocabularies and indexes, not configurations."""
LIBRARIES = frozenset({"diffusers", "megatron", "peft", "sentence_transformers", "timm", "torch", "transformers"})
"""Where a configuration may say that a class is to be imported from."""
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")


def read_object(path: Path, label: str) -> dict[str, object]:
    """The JSON object in `path`. Raises InvalidCheckpoint, TooLarge."""
    value = read_json(path, label)
    if not isinstance(value, dict):
        raise InvalidCheckpoint(path=label, reason="it is not a JSON object")
    return value


def read_json(path: Path, label: str) -> object:
    """The JSON value in `path`, of whatever kind. Raises InvalidCheckpoint, TooLarge."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise TooLarge(what=label, actual=f"{size} bytes", limit=f"{MAX_JSON_BYTES} bytes")
    try:
        value: object = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(path=label, reason=f"it is not JSON ({error})") from None
    return value


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object of which no two readers see different values: for `object_pairs_hook`. Raises ValueError."""
    result: dict[str, object] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the key {name[:80]!r} appears twice")
        result[name] = value
    return result


def refuse_code(config: object, label: str) -> None:
    """Raise UnsafeFile if `config`, at any depth, asks for code that is not in the libraries themselves.

    `auto_map` and `trust_remote_code` make transformers run a repository's files (CVE-2026-22807); an attention
    implementation written `org/name` makes it fetch and load a native kernel; PEFT imports the module that
    `parent_library` or `megatron_core` names.
    """
    for key, value in _items(config):
        if key == "auto_map" or (key == "trust_remote_code" and value):
            raise UnsafeFile(path=label, reason=f"its {key} asks for code to be run")
        if key in ATTENTION_KEYS and isinstance(value, str) and "/" in value:
            raise UnsafeFile(path=label, reason=f"its {key} {value!r} asks for code to be fetched")
        is_module = key in ("parent_library", "megatron_core") and isinstance(value, str)
        if is_module and str(value).partition(".")[0] not in LIBRARIES:
            raise UnsafeFile(path=label, reason=f"its {key} {value!r} asks for code to be imported")


def check_configs(root: Path, files: tuple[str, ...]) -> None:
    """Raise UnsafeFile if a configuration among `files` asks for code: any JSON but a vocabulary or an index."""
    for name in files:
        lower = name.lower()
        small = lower.endswith(".json") and (root / name).stat().st_size <= MAX_SCANNED_BYTES
        if lower.endswith("config.json") or (small and not lower.endswith(("tokenizer.json", "vocab.json"))):
            refuse_code(read_json(root / name, name), name)


def _items(config: object) -> Iterator[tuple[str, object]]:
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from value.items()
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
