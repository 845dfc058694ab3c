"""Calls about what a registry holds."""

from __future__ import annotations

from collections.abc import Sequence

from graftwork.api.schemas.artifacts import ArtifactOut
from graftwork.api.schemas.lineage import LineageOut
from graftwork.api.schemas.versions import VersionDetail, VersionOut
from graftwork.client.call import Call, artifact_path, call, version_path
from graftwork.registry.refs import Ref


def listing(
    *, kind: str | None = None, namespace: str | None = None, search: str | None = None, limit: int = 100
) -> Call[list[ArtifactOut]]:
    """Artifacts in the order of their names; a client's `pages` goes through all of them."""
    query = {"kind": kind, "namespace": namespace, "search": search, "limit": limit}
    return call("GET", "/artifacts", list[ArtifactOut], query=query)


def get(name: str) -> Call[ArtifactOut]:
    """One artifact, `ns/name`, with its newest version and its aliases."""
    return call("GET", artifact_path(name), ArtifactOut)


def set_private(name: str, private: bool) -> Call[ArtifactOut]:
    """Hide an artifact from whoever may not read in its namespace, or show it to all."""
    return call("PATCH", artifact_path(name), ArtifactOut, json={"private": private})


def versions(name: str) -> Call[list[VersionOut]]:
    """The versions of an artifact, newest first."""
    return call("GET", artifact_path(name, "versions"), list[VersionOut])


def resolve(ref: str) -> Call[VersionDetail]:
    """The version behind `ns/name@alias`, `@v3`, `@` and a digest; the newest one of `ns/name`."""
    return call("GET", version_path(ref), VersionDetail)


def version(ref: str) -> Call[VersionOut]:
    """The same without its tensors, parents and evaluations."""
    return call("GET", version_path(ref), VersionOut)


def lineage(
    ref: str, *, direction: str = "both", depth: int | None = None, relations: Sequence[str] = ()
) -> Call[LineageOut]:
    """What a version was made from and what was made from it, by these relations only if any are given."""
    parsed = Ref.parse(ref)
    query = {"revision": parsed.revision, "direction": direction, "depth": depth, "relation": list(relations) or None}
    return call("GET", artifact_path(str(parsed.name), "lineage"), LineageOut, query=query)
