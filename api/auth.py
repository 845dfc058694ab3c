"""Who asks, and whether they may.

With authentication, every request but those for the server's health carries a bearer token. What a request needs
follows from its method, its path and the namespace in it; `require_permission` decides for all routes. What is named in
a body, a route checks with the same `Principal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from graftwork.api.deps import Services, ServicesDep
from graftwork.errors import ArtifactNotFound, Forbidden, Unauthorized
from graftwork.registry.grants import ALL, EVERYWHERE, Grants, Scope
from graftwork.registry.refs import Name

LOCAL_OWNER = "api"
READING = frozenset({"GET", "HEAD", "OPTIONS"})
ADMIN_PREFIXES = ("/api/v1/tokens", "/api/v1/quotas", "/api/v1/audit", "/api/v1/engines")
EXPECTED = "send a token that is good: Authorization: Bearer gw_..."


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever sent a request."""

    owner: str
    grants: Grants

    def require(self, scope: Scope, namespace: str) -> None:
        """Raise Forbidden unless `scope` is granted in the namespace."""
        if not self.grants.allow(scope, namespace):
            raise Forbidden(owner=self.owner, scope=scope, namespace=namespace)

    def require_visible(self, services: Services, name: Name) -> None:
        """Raise ArtifactNotFound for a private artifact that the principal may not read, as if it were not there."""
        if not self.grants.allow(Scope.READ, name.namespace) and services.registry.catalog.is_private(name):
            raise ArtifactNotFound(name=name)


NOBODY_ASKED = Principal(LOCAL_OWNER, ALL)
"""Who it is where there is no authentication: whoever reaches the server may do everything."""


def _principal(request: Request, services: ServicesDep) -> Principal:
    if not services.settings.authenticated:
        return NOBODY_ASKED
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    token = services.registry.tokens.authenticate(secret.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Unauthorized(reason=f"{request.method} {request.url.path} needs authentication; {EXPECTED}")
    return Principal(token.owner, token.grants)


PrincipalDep = Annotated[Principal, Depends(_principal)]


def require_permission(request: Request, services: ServicesDep, principal: PrincipalDep) -> None:
    """Refuse a request that its sender has no permission for. Raises Unauthorized, Forbidden, ArtifactNotFound."""
    path, namespace = request.url.path, request.path_params.get("namespace")
    if path.startswith(ADMIN_PREFIXES):
        principal.require(Scope.ADMIN, EVERYWHERE)
    elif namespace is not None:
        if name := request.path_params.get("name"):
            principal.require_visible(services, Name.parse(f"{namespace}/{name}"))
        if request.method not in READING:
            principal.require(Scope.WRITE, namespace)
