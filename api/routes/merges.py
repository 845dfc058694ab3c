"""`POST /api/v1/merges`: merge models in the background."""

from __future__ import annotations

from fastapi import APIRouter, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import RegistryDep, SettingsDep
from graftwork.api.routes.jobs import accepted
from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.merges import MergeRequest
from graftwork.merge.jobs.kinds.merge import submit_merge
from graftwork.merge.recipe.recipe import load_recipe

router = APIRouter(prefix="/merges", tags=["merges"])


@router.post("", status_code=202)
def post_merge(
    body: MergeRequest, response: Response, registry: RegistryDep, settings: SettingsDep, principal: PrincipalDep
) -> JobOut:
    """Check a recipe and queue it; the same recipe for the same name is the job that waits or runs already."""
    job = submit_merge(
        registry,
        load_recipe(body.recipe),
        settings=settings,
        name=body.name,
        priority=body.priority,
        owner=principal.owner,
    )
    return accepted(job, response)
