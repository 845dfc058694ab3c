"""The files of a revision as the Hub lists them, and the model card of versions that brought none.

Every file is told as one of large file storage: its ETag is the SHA-256 of its bytes, and its `oid` the git blob id of
the pointer that would stand for it (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from graftwork.api.hub.card import CARD, card
from graftwork.registry.arrivals.repositories import View
from graftwork.registry.registry import Registry
from graftwork.registry.versions.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a revision; `content` holds its bytes when it is made on reading."""

    file: FileEntry
    content: bytes | None = None


def entries(registry: Registry, view: View) -> dict[str, Entry]:
    """The files of a revision by their paths, in order, with a model card."""
    found = {file.path: Entry(file) for file in view.files}
    if view.version is not None and CARD not in found:
        content = card(registry, view.version)
        found[CARD] = Entry(FileEntry(CARD, hashlib.sha256(content).hexdigest(), len(content)), content)
    return dict(sorted(found.items()))


def described(entry: Entry) -> dict[str, Any]:
    """A file as an item of a tree."""
    file = entry.file
    pointer = _pointer(file)
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "oid": git_blob(pointer),
        "lfs": {"oid": file.sha256, "size": file.size, "pointerSize": len(pointer)},
    }


def folder(path: str) -> dict[str, Any]:
    """A folder as an item of a tree."""
    return {"type": "directory", "path": path, "size": 0, "oid": git_blob(path.encode())}


def sibling(entry: Entry, *, detailed: bool) -> dict[str, Any]:
    """A file as one of a model's `siblings`."""
    if not detailed:
        return {"rfilename": entry.file.path}
    item = described(entry)
    lfs = {"sha256": entry.file.sha256, "size": item["size"], "pointerSize": item["lfs"]["pointerSize"]}
    return {"rfilename": item["path"], "size": item["size"], "blobId": item["oid"], "lfs": lfs}


def git_blob(content: bytes) -> str:
    """The id that git gives to `content` (SHA-1, as git defines it)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pointer(file: FileEntry) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n".encode()
