"""`/api/v1/rebuilds`: make what was made of a version again without it."""

from __future__ import annotations

from fastapi import APIRouter, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import RegistryDep, SettingsDep
from graftwork.api.routes.jobs import accepted
from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.rebuilds import RebuildJobRequest, RebuildPlanOut, RebuildRequest
from graftwork.merge.jobs.kinds.rebuild import RebuildOrder, find_rebuild, submit_rebuild

router = APIRouter(prefix="/rebuilds", tags=["rebuilds"])


@router.post("/plan")
def plan_rebuild(body: RebuildRequest, registry: RegistryDep, settings: SettingsDep) -> RebuildPlanOut:
    """What would be rebuilt, in which order, without what; and what cannot be, and why. Nothing is changed."""
    return RebuildPlanOut.of(find_rebuild(registry, settings, body.ref, body.replace_by))


@router.post("", status_code=202)
def submit(
    body: RebuildJobRequest,
    response: Response,
    registry: RegistryDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> JobOut:
    """Queue a rebuild of everything that was made of a version.

    Each result is registered under the name that it had, as a new version. The job's result lists every descendant:
    what was made, which aliases moved, or why it was not rebuilt.
    """
    order = RebuildOrder(ref=body.ref, replace_by=body.replace_by, move_aliases=body.move_aliases)
    job = submit_rebuild(registry, order, settings=settings, priority=body.priority, owner=principal.owner)
    return accepted(job, response)
