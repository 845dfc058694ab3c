"""The manifest of a version: what its digest covers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field

MANIFEST_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a version: its path with `/` between folders, the SHA-256 of its bytes, its size in bytes.

    `generation` says where the blob store has the bytes; it is no part of what the file is.
    """

    path: str
    sha256: str
    size: int
    generation: int = field(default=0, compare=False)


def manifest_digest(kind: str, base: str | None, files: Iterable[FileEntry]) -> str:
    """SHA-256 of the canonical manifest: what a version is, without its name, its number and its metadata."""
    manifest = {
        "schema": MANIFEST_SCHEMA,
        "kind": str(kind),
        "base": base,
        "files": sorted([file.path, file.sha256, file.size] for file in files),
    }
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
