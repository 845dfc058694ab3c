"""JSON files that travel with weights: parsed with a limit, refused when they point at code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from graftwork.errors import InvalidCheckpoint, TooLarge, UnsafeFile

MAX_JSON_BYTES = 64_000_000
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")


def read_object(path: Path, label: str) -> dict[str, object]:
    """The JSON object in `path`. Raises InvalidCheckpoint, TooLarge."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise TooLarge(what=label, actual=f"{size} bytes", limit=f"{MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidCheckpoint(path=label, reason=f"it is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InvalidCheckpoint(path=label, reason="it is not a JSON object")
    return value


def refuse_code(config: object, label: str) -> None:
    """Raise UnsafeFile if `config`, at any depth, asks for code that is not in the libraries themselves.

    `auto_map` and `trust_remote_code` make transformers run a repository's files (CVE-2026-22807); an attention
    implementation written `org/name` makes it fetch and load a native kernel.
    """
    for key, value in _items(config):
        if key == "auto_map" or (key == "trust_remote_code" and value):
            raise UnsafeFile(path=label, reason=f"its {key} asks for code to be run")
        if key in ATTENTION_KEYS and isinstance(value, str) and "/" in value:
            raise UnsafeFile(path=label, reason=f"its {key} {value!r} asks for code to be fetched")


def check_configs(root: Path, files: tuple[str, ...]) -> None:
    """Raise UnsafeFile if a `*config.json` among `files` asks for code."""
    for name in files:
        if name.lower().endswith("config.json"):
            refuse_code(read_object(root / name, name), name)


def _items(config: object) -> Iterator[tuple[str, object]]:
    stack = [config]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield from value.items()
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
