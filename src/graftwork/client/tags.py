"""Calls about tags, the words that artifacts are found by."""

from __future__ import annotations

from collections.abc import Iterable

from graftwork.api.schemas.tags import TagsOut
from graftwork.client.call import Call, artifact_path, call


def counts() -> Call[dict[str, int]]:
    """Every tag, with how many artifacts have it."""
    return call("GET", "/tags", dict[str, int])


def find(tag: str) -> Call[list[str]]:
    """The names of the artifacts that have a tag."""
    return call("GET", f"/tags/{tag}", list[str])


def get(name: str) -> Call[TagsOut]:
    """The tags of the artifact `ns/name`."""
    return call("GET", artifact_path(name, "tags"), TagsOut)


def put(name: str, tags: Iterable[str]) -> Call[TagsOut]:
    """Make these the tags of an artifact."""
    return call("PUT", artifact_path(name, "tags"), TagsOut, json={"tags": sorted(tags)})
