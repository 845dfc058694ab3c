"""OpenAI's dialect over a fleet, and what the fleet is doing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from graftwork.adapters.fleet.host import FleetHost
from graftwork.adapters.fleet.wire import credentials
from graftwork.api.dependencies.allowance import reserving
from graftwork.api.dependencies.services import ServicesDep, fleet_of
from graftwork.api.gateway.forward import forward, read
from graftwork.api.streams.disconnect import CLIENT_GONE

CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=256)
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string", "description": "NAMESPACE/NAME, or one of its versions"}
                    },
                }
            }
        },
    }
}


class ReplicaOut(BaseModel):
    """A server of the fleet; `in_flight` counts requests by the digest of the version that answers them."""

    url: str
    is_ready: bool
    reason: str
    base: str | None
    model: str | None
    in_flight: dict[str, int]


@asynccontextmanager
async def _connected(app: FastAPI) -> AsyncIterator[None]:
    key = app.state.services.settings.engine_key
    async with httpx.AsyncClient(headers=credentials(key), limits=CONNECTIONS) as client:
        app.state.fleet_client = client
        yield


router = APIRouter(tags=["inference"], lifespan=_connected)


async def _client(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.app.state.fleet_client
    return client


async def _fleet_host(services: ServicesDep) -> FleetHost:
    return fleet_of(services)


ClientDep = Annotated[httpx.AsyncClient, Depends(_client)]
FleetHostDep = Annotated[FleetHost, Depends(_fleet_host)]


@router.post("/v1/completions", openapi_extra=BODY)
@router.post("/v1/chat/completions", openapi_extra=BODY)
async def complete(request: Request, services: ServicesDep, host: FleetHostDep, client: ClientDep) -> Response:
    """Have a server of the fleet answer, in its own words; `X-Graftwork-Version` names the version that answered."""
    try:
        asked = await read(request)
        target = await to_thread.run_sync(host.admit, asked.model, limiter=services.admission)
        reserved = reserving(services.token_rates, request)(asked.most_tokens)
        try:
            return await forward(request, asked, target, host.fleet, client, reserved.settle)
        except BaseException:
            reserved.settle(0)
            raise
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)


@router.get("/api/v1/fleet")
async def get_fleet(host: FleetHostDep) -> list[ReplicaOut]:
    """The servers of the fleet: whether they are ready, and what they are answering."""
    return [
        ReplicaOut(
            url=status.url,
            is_ready=status.is_ready,
            reason=status.reason,
            base=status.base,
            model=status.model,
            in_flight=dict(status.in_flight),
        )
        for status in host.fleet.status()
    ]
