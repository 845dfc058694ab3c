"""`/api/v1/artifacts/{namespace}/{name}/lineage`: what was made from what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.dependencies.services import NameDep, RegistryDep
from graftwork.api.schemas.lineage import LineageOut
from graftwork.registry.refs import Ref
from graftwork.registry.versions.lineage import Direction

router = APIRouter(prefix="/artifacts/{namespace}/{name}", tags=["lineage"])


@router.get("/lineage")
def get_lineage(
    name: NameDep,
    registry: RegistryDep,
    revision: Annotated[str | None, Query(description="an alias, a number or a digest; the newest if absent")] = None,
    direction: Direction = "both",
    depth: Annotated[int | None, Query(ge=0, le=1_000_000, description="edges to follow; all if absent")] = None,
    relation: Annotated[
        list[str] | None,
        Query(max_length=16, description="the relations to follow, such as `merge_input`; all if absent"),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=100_000, description="edges in each direction after which it stops, the nearest first")
    ] = 10_000,
) -> LineageOut:
    """The ancestors (`up`) and descendants (`down`) of a version, also of one that was withdrawn."""
    version = registry.lineage.find(Ref.parse(f"{name}@{revision}" if revision else str(name)))
    graph = registry.lineage.graph(
        version.digest, depth=depth, direction=direction, relations=relation or (), limit=limit
    )
    return LineageOut.of(version, graph)
