"""`POST /api/v1/sweeps`: try the points of a grid over a recipe, and register the best."""

from __future__ import annotations

from fastapi import APIRouter, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import RegistryDep, SettingsDep
from graftwork.api.routes.jobs import accepted
from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.sweeps import SweepRequest
from graftwork.merge.jobs.kinds.sweep import SweepOrder, submit_sweep

router = APIRouter(prefix="/sweeps", tags=["merges"])


@router.post("", status_code=202)
def post_sweep(
    body: SweepRequest, response: Response, registry: RegistryDep, settings: SettingsDep, principal: PrincipalDep
) -> JobOut:
    """Check a recipe, a grid and what judges the points, and queue the sweep over the versions that are meant now."""
    order = SweepOrder.model_validate(body.model_dump(exclude={"priority"}, by_alias=True))
    return accepted(submit_sweep(registry, settings, order, priority=body.priority, owner=principal.owner), response)
