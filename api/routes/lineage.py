"""`/api/v1/artifacts/{namespace}/{name}/lineage`: what was made from what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from graftwork.api.deps import NameDep, RegistryDep
from graftwork.api.schemas.lineage import LineageOut
from graftwork.registry.lineage import Direction
from graftwork.registry.refs import Ref

router = APIRouter(prefix="/artifacts/{namespace}/{name}", tags=["lineage"])


@router.get("/lineage")
def get_lineage(
    name: NameDep,
    registry: RegistryDep,
    revision: Annotated[str | None, Query(description="an alias, a number or a digest; the newest if absent")] = None,
    direction: Direction = "both",
    depth: Annotated[int | None, Query(ge=0, description="edges to follow; all if absent")] = None,
) -> LineageOut:
    """The ancestors (`up`) and descendants (`down`) of a version."""
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}" if revision else str(name)))
    return LineageOut.of(version, registry.lineage.graph(version.digest, depth=depth, direction=direction))
