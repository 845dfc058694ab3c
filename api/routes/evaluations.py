"""Evaluations: asked for at `/api/v1/evaluations`, read at `.../versions/{revision}/evaluations`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from graftwork.api.dependencies.auth import PrincipalDep
from graftwork.api.dependencies.services import NameDep, RegistryDep, SettingsDep
from graftwork.api.routes.jobs import accepted
from graftwork.api.schemas.evaluations import EvaluationOut, EvaluationRequest
from graftwork.api.schemas.jobs import JobOut
from graftwork.merge.jobs.kinds.evaluate import EvaluateOrder, submit_evaluation
from graftwork.registry.refs import Ref

router = APIRouter(tags=["evaluations"])


@router.post("/evaluations", status_code=202)
def post_evaluation(
    body: EvaluationRequest, response: Response, registry: RegistryDep, settings: SettingsDep, principal: PrincipalDep
) -> JobOut:
    """Queue an evaluation by a dataset of the registry or by an evaluator that the operator has configured.

    The versions are those that are meant now. What was evaluated before is found and not computed again.
    """
    order = EvaluateOrder.model_validate(body.model_dump(exclude={"priority"}))
    job = submit_evaluation(registry, settings, order, priority=body.priority, owner=principal.owner)
    return accepted(job, response)


@router.get("/artifacts/{namespace}/{name}/versions/{revision}/evaluations")
def list_evaluations(name: NameDep, revision: str, registry: RegistryDep) -> list[EvaluationOut]:
    """What is known of a version, newest first; also under other names of the same content."""
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    return [EvaluationOut.of(evaluation) for evaluation in registry.evaluations.of([version.digest])]
