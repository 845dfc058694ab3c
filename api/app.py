"""The application: its routes, its failures, and what lives as long as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.concurrency import contextmanager_in_threadpool

from graftwork import __version__
from graftwork.api import errors
from graftwork.api.auth import require_permission
from graftwork.api.deps import open_services
from graftwork.api.gateway import routes as fleet
from graftwork.api.routes import (
    adapters,
    aliases,
    artifacts,
    chat,
    classify,
    completions,
    embeddings,
    files,
    health,
    jobs,
    lineage,
    merges,
    methods,
    models,
    residents,
    tokens,
)
from graftwork.settings import Settings

REST = (adapters, aliases, artifacts, files, jobs, lineage, merges, methods, residents, tokens)
INFERENCE = (chat, classify, completions, embeddings, models)
FLEET = (fleet, models)


def create_app(settings: Settings) -> FastAPI:
    """The API over the registry in `settings.home`: REST under `/api/v1`, OpenAI's dialect under `/v1`."""

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
    )
    errors.install(app)
    rest = APIRouter(prefix="/api/v1")
    for noun in REST:
        rest.include_router(noun.router)
    allowed = [Depends(require_permission)]
    app.include_router(rest, dependencies=allowed)
    for noun in FLEET if settings.engine == "vllm" else INFERENCE:
        app.include_router(noun.router, dependencies=allowed)
    app.include_router(health.router)
    return app
