"""`/api/v1/artifacts`: what the registry holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.pages import PagesDep
from graftwork.api.dependencies.services import NameDep, RegistryDep
from graftwork.api.schemas.artifacts import ArtifactChange, ArtifactOut
from graftwork.api.schemas.versions import VersionDetail, VersionOut
from graftwork.registry.refs import Ref
from graftwork.registry.versions.version import Kind

router = APIRouter(prefix="/artifacts", tags=["artifacts"])


@router.get("")
def list_artifacts(
    pages: PagesDep,
    registry: RegistryDep,
    principal: PrincipalDep,
    kind: Kind | None = None,
    namespace: str | None = None,
    search: Annotated[str | None, Query(description="a part of the name")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(description="the name after which to go on")] = None,
) -> list[ArtifactOut]:
    """Artifacts in the order of their names; `Link: rel="next"` leads to the rest."""
    found = registry.catalog.list(kind=kind, namespace=namespace, search=search, limit=limit + 1, after=after)
    return [ArtifactOut.of(artifact) for artifact in pages.page(found, limit, lambda artifact: artifact.name)]


@router.get("/{namespace}/{name}")
def get_artifact(name: NameDep, registry: RegistryDep) -> ArtifactOut:
    """One artifact, with its newest version and its aliases."""
    return ArtifactOut.of(registry.catalog.get(name))


@router.patch("/{namespace}/{name}")
def change_artifact(name: NameDep, body: ArtifactChange, registry: RegistryDep, principal: PrincipalDep) -> ArtifactOut:
    """Hide an artifact from whoever may not read in its namespace, or show it to all."""
    artifact = registry.catalog.get(name)
    registry.repositories.set_private(artifact.name, body.private, actor=principal.owner)
    return ArtifactOut.of(registry.catalog.get(name))


@router.get("/{namespace}/{name}/versions")
def list_versions(name: NameDep, registry: RegistryDep) -> list[VersionOut]:
    """The versions of an artifact, newest first."""
    return [VersionOut.of(version) for version in registry.catalog.versions(name)]


@router.get("/{namespace}/{name}/versions/{revision}")
def get_version(name: NameDep, revision: str, registry: RegistryDep, response: Response) -> VersionDetail:
    """The version behind an alias, a number (`v3`) or the start of a digest; the ETag is its digest."""
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    response.headers["ETag"] = f'"{version.digest}"'
    return VersionDetail.read(registry, version)
