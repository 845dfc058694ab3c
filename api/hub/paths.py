"""The paths of the Hub's protocol, read from the undecoded request: a revision may hold `%2F`, and is decoded once."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

RESERVED = frozenset({"api", "v1", "docs", "datasets", "spaces", "kernels", "buckets", "static", "metrics"})
"""Namespaces that no repository can be created in: what begins with them means something else."""
XET_ADVICE = ("api", "hub", "xet-is-not-offered", "set-HF_HUB_DISABLE_XET=1-and-push-again")
"""Read by people, in the message of a client that shows no more than a URL."""
MAX_PATH_BYTES = 4096
MAIN = "main"
OF_MODELS = frozenset(
    {
        "revision",
        "tree",
        "paths-info",
        "refs",
        "commits",
        "preupload",
        "commit",
        "settings",
        "tag",
        "branch",
        "xet-write-token",
        "xet-read-token",
    }
)
"""What follows the name in `/api/models/NAMESPACE/NAME/...`."""
OF_SERVER: Mapping[tuple[str, ...], str] = MappingProxyType(
    {
        ("api", "whoami-v2"): "whoami",
        ("api", "validate-yaml"): "validate-yaml",
        ("api", "repos", "create"): "create",
        ("api", "repos", "delete"): "delete",
        ("api", "models"): "models",
        XET_ADVICE: "xet-advice",
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a path points at: an operation, and the repository, the revision and the file that it is about."""

    operation: str
    namespace: str = ""
    name: str = ""
    revision: str = MAIN
    path: str = ""


def parse_path(raw: bytes) -> Place | None:
    """The place that an undecoded path points at; None for a path that is not of the Hub's protocol."""
    if len(raw) > MAX_PATH_BYTES or not raw.startswith(b"/"):
        return None
    parts = [_decoded(part) for part in raw[1:].split(b"/")]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts) or not all(known):
        return None
    return _of_server(known) or _of_models(known) or _of_root(known)


def _decoded(part: bytes) -> str | None:
    try:
        text = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        return None
    return None if any(unicodedata.category(character) == "Cc" for character in text) else text


def _of_server(parts: list[str]) -> Place | None:
    if operation := OF_SERVER.get(tuple(parts)):
        return Place(operation)
    if parts[:3] == ["api", "hub", "lfs"] and len(parts) == 4:
        return Place("lfs-transfer", path=parts[3])
    if parts[0] == "api" and parts[1:2] in (["datasets"], ["spaces"]):
        return Place("not-models", path="/".join(parts[1:]))
    return None


def _of_models(parts: list[str]) -> Place | None:
    match parts:
        case ["api", "models", name]:
            return Place("unknown", name=name)
        case ["api", "models", namespace, name]:
            return Place("info", namespace, name)
        case ["api", "models", namespace, name, ("refs" | "settings") as operation]:
            return Place(operation, namespace, name)
        case ["api", "models", namespace, name, operation, revision, *path] if operation in OF_MODELS:
            return Place(operation, namespace, name, revision, "/".join(path))
        case ["api", "models", namespace, name, ("xet-write-token" | "xet-read-token") as operation]:
            return Place(operation, namespace, name)
    return None


def _of_root(parts: list[str]) -> Place | None:
    if parts[0].lower() in RESERVED:
        return None
    match parts:
        case [namespace, repository, "info", "lfs", "objects", "batch"] if repository.endswith(".git"):
            return Place("lfs-batch", namespace, repository.removesuffix(".git"))
        case [namespace, name, ("resolve" | "raw"), revision, *path] if path:
            return Place("resolve", namespace, name, revision, "/".join(path))
        case [name, ("resolve" | "raw"), _, _, *_]:
            return Place("unknown", name=name)
    return None
