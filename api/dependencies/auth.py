"""Who asks, and whether they may.

With authentication, every request but those for the server's health carries a bearer token. `require_permission` runs
before every route: what a request needs follows from its method, its path and the namespace in it. From then on the
registry knows whom it works for (`registry.access`), so that what is named in a body, in a recipe or in another version
is found, or not found, as its sender may see it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from graftwork.api.dependencies.services import Services, ServicesDep
from graftwork.api.middleware.idempotency import begin
from graftwork.errors import Unauthorized
from graftwork.registry.access.access import USING, Access, access
from graftwork.registry.access.grants import ALL, EVERYWHERE, Scope
from graftwork.registry.refs import Name

LOCAL_OWNER = "api"
PUBLIC = frozenset({"/healthz", "/readyz"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ADMIN_PREFIXES = (
    "/api/v1/tokens",
    "/api/v1/audit",
    "/api/v1/fleet",
    "/api/v1/residents",
)
OPERATOR_PATHS = frozenset({"/metrics"})
"""For whoever may read everywhere."""
INFERENCE_PREFIX = "/v1/"
EXPECTED = "send Authorization: Bearer gw_..., or set GRAFTWORK_TOKEN for graft"

Principal = Access
NOBODY_ASKED = Access(LOCAL_OWNER, ALL)
"""Who it is where there is no authentication: whoever reaches the server may do everything."""


async def identify(request: Request, services: ServicesDep) -> Access:
    """Whoever sent a request, for whom the registry works from now on. Raises Unauthorized."""
    principal = NOBODY_ASKED
    if services.settings.authenticated and request.url.path not in PUBLIC:
        principal = await run_in_threadpool(_authenticate, request, services)
    if request.url.path.startswith(INFERENCE_PREFIX):
        principal = replace(principal, seeing=USING)
    access.set(principal)
    request.state.principal = principal
    return principal


def _authenticate(request: Request, services: Services) -> Access:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized(reason=f"{request.method} {request.url.path} needs a token, and none was given; {EXPECTED}")
    token = services.registry.tokens.authenticate(secret.strip())
    if token is None:  # who guesses tokens is not told which ones there were
        raise Unauthorized(reason=f"The token that was given is not known, or expired or revoked; {EXPECTED}")
    return Access(token.owner, token.grants)


PrincipalDep = Annotated[Access, Depends(identify)]


async def require_permission(request: Request, services: ServicesDep, principal: PrincipalDep) -> None:
    """Refuse a request that its sender has no permission for, or sends too soon.

    Raises Unauthorized, Forbidden, ArtifactNotFound, RateLimited, and what `begin` raises for an Idempotency-Key.
    """
    path, namespace = request.url.path, request.path_params.get("namespace")
    if path in PUBLIC:
        return
    if path.startswith(ADMIN_PREFIXES):
        principal.require(Scope.ADMIN, EVERYWHERE)
    elif path in OPERATOR_PATHS:
        principal.require(Scope.READ, EVERYWHERE)
    elif namespace is not None and request.method not in READING:
        if (name := request.path_params.get("name")) and not principal.grants.allow(Scope.WRITE, namespace):
            # whoever may not see a private artifact is answered as if there were none
            await run_in_threadpool(services.registry.catalog.get, Name.parse(f"{namespace}/{name}"))
        principal.require(Scope.WRITE, namespace)
    services.rates.take(principal.owner)
    await begin(request, services.registry.database, principal.owner)
