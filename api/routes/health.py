"""`/healthz` and `/readyz`: whether the server answers, and whether it can do its work."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from graftwork import __version__
from graftwork.adapters.hosting.host import Host
from graftwork.api.dependencies.services import Services, ServicesDep, fleet_of
from graftwork.errors import DatabaseUnavailable, GraftworkError

router = APIRouter(tags=["health"])

UNAVAILABLE = 503
OK = "ok"
ABSENT = "0" * 64

logger = logging.getLogger(__name__)


class Health(BaseModel):
    """A server that answers."""

    status: str
    version: str


class Readiness(BaseModel):
    """What the server needs; each is `ok` or says what is wrong with it, which the log tells in full.

    Anybody may read it, and so it names no path, address or user.
    """

    ready: bool
    checks: dict[str, str] = Field(examples=[{"database": "ok", "storage": "ok", "engines": "ok"}])


@router.get("/healthz")
async def healthz() -> Health:
    """Answer, without looking at anything else."""
    return Health(status="ok", version=__version__)


@router.get("/readyz", responses={UNAVAILABLE: {"model": Readiness, "description": "what is wrong"}})
def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Look at the database, the blob store and the engines; 503 if one of them cannot be used."""
    checks = {
        "database": _database(services) or OK,
        "storage": _storage(services) or OK,
        "engines": _engines(services) or OK,
    }
    ready = set(checks.values()) == {OK}
    response.status_code = 200 if ready else UNAVAILABLE
    return Readiness(ready=ready, checks=checks)


def _database(services: Services) -> str | None:
    try:
        return None if services.registry.database.is_migrated() else "its schema is not the one of this version"
    except DatabaseUnavailable:
        return "it does not answer"


def _storage(services: Services) -> str | None:
    try:
        with services.registry.blobs.scratch() as folder:
            (folder / "probe").write_bytes(b"ready?")
        if services.registry.blobs.remote:
            services.registry.blobs.has(ABSENT)
    except (GraftworkError, OSError) as error:
        logger.warning("not ready: %s", error)
        return "it cannot be read and written"
    return None


def _engines(services: Services) -> str | None:
    if isinstance(services.host, Host):
        dead = [digest[:12] for digest, engine in services.host.engines().items() if not engine.is_alive]
        return f"the engine of {dead[0]} has stopped" if dead else None
    statuses = fleet_of(services).fleet.status()
    if any(status.is_ready for status in statuses):
        return None
    logger.warning("not ready: %s: %s", statuses[0].url, statuses[0].reason)
    return "no server of the fleet is ready"
