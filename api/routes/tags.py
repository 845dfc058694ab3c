"""Tags: `/api/v1/artifacts/{namespace}/{name}/tags`, and `/api/v1/tags/{tag}` to find artifacts by them."""

from __future__ import annotations

from fastapi import APIRouter

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import NameDep, RegistryDep
from graftwork.api.schemas.tags import TagsOut, TagsRequest

router = APIRouter(tags=["tags"])


@router.get("/tags")
def list_tags(registry: RegistryDep) -> dict[str, int]:
    """Every tag, with how many artifacts have it."""
    return registry.tags.counts()


@router.get("/tags/{tag}")
def find_by_tag(tag: str, registry: RegistryDep) -> list[str]:
    """The names of the artifacts that have the tag, in order."""
    return [str(name) for name in registry.tags.artifacts(tag)]


@router.get("/artifacts/{namespace}/{name}/tags")
def get_tags(name: NameDep, registry: RegistryDep) -> TagsOut:
    """The tags of an artifact."""
    return TagsOut(name=str(name), tags=registry.tags.get(name))


@router.put("/artifacts/{namespace}/{name}/tags")
def put_tags(name: NameDep, body: TagsRequest, registry: RegistryDep, principal: PrincipalDep) -> TagsOut:
    """Make these the tags of an artifact; those it had before are gone."""
    return TagsOut(name=str(name), tags=registry.tags.set(name, body.tags, actor=principal.owner))
