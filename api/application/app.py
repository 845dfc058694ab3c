"""The application: its routes, its failures, and what lives as long as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.responses import RedirectResponse

from graftwork import __version__
from graftwork.adapters.steps.fairness import parse_weights
from graftwork.api.application import openapi
from graftwork.api.dependencies.auth import require_permission
from graftwork.api.dependencies.services import open_services
from graftwork.api.gateway import routes as fleet
from graftwork.api.hub.route import HubRoute
from graftwork.api.middleware import errors, idempotency, limits
from graftwork.api.middleware.idempotency import Keeping
from graftwork.api.middleware.limits import BodyLimit
from graftwork.api.middleware.metrics import Metrics
from graftwork.api.middleware.observing import Observing
from graftwork.api.middleware.queries import refuse_unknown_parameters
from graftwork.api.middleware.texts import refuse_half_characters
from graftwork.api.routes import (
    adapters,
    aliases,
    artifacts,
    audit,
    chat,
    classify,
    completions,
    embeddings,
    evaluations,
    files,
    health,
    jobs,
    lineage,
    marks,
    merges,
    methods,
    metrics,
    models,
    quotas,
    rebuilds,
    residents,
    schedules,
    sweeps,
    tags,
    tokens,
    uploads,
)
from graftwork.settings import Settings

REST = (
    adapters,
    aliases,
    artifacts,
    audit,
    evaluations,
    files,
    jobs,
    lineage,
    marks,
    merges,
    methods,
    quotas,
    rebuilds,
    residents,
    schedules,
    sweeps,
    tags,
    tokens,
    uploads,
)
INFERENCE = (chat, completions, embeddings, classify, models)
FLEET = (fleet, models)


def create_app(settings: Settings) -> FastAPI:
    """The API over the registry in `settings.home`: REST under `/api/v1`, OpenAI's dialect under `/v1`.

    Raises InvalidSetting for what would otherwise be found out with the first model that is loaded.
    """
    parse_weights(settings.tenant_weights)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextmanager_in_threadpool(open_services(settings)) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Graftwork",
        version=__version__,
        summary="A registry, a merge engine and a multi-adapter inference server for fine-tuned models.",
        lifespan=lifespan,
        dependencies=[Depends(require_permission), Depends(refuse_half_characters)],
    )
    errors.install(app)
    idempotency.install(app)
    limits.install(app)
    app.state.metrics = Metrics()
    # the layers around the routes, from the inside out
    app.add_middleware(Keeping)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes)
    app.add_middleware(Observing, metrics=app.state.metrics)
    for noun in FLEET if settings.engine == "vllm" else INFERENCE:  # first: a request tries one route after the other
        app.include_router(noun.router)
    for noun in REST:
        app.include_router(noun.router, prefix="/api/v1", dependencies=[Depends(refuse_unknown_parameters)])
    for noun in (health, metrics):
        app.include_router(noun.router)
    openapi.install(app)
    app.add_route("/", _to_the_docs, include_in_schema=False)
    app.router.routes.append(HubRoute())  # last, so that it hides nothing
    return app


def _to_the_docs(request: Request) -> Response:
    """What whoever types the server's address into a browser looks for."""
    return RedirectResponse("/docs")
