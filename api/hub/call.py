"""One request of the Hub's protocol, as its operations see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request

from graftwork.api.dependencies.services import Services
from graftwork.api.hub.paths import Place
from graftwork.registry.access.access import Access
from graftwork.registry.access.grants import Scope
from graftwork.registry.arrivals.repositories import Repository
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry


@dataclass(frozen=True)
class Call:
    """A request, where it points, who sent it, and its body where that is small and was read."""

    request: Request
    services: Services
    principal: Access
    place: Place
    body: bytes = b""

    @property
    def registry(self) -> Registry:
        """The registry of the running server."""
        return self.services.registry

    @property
    def url(self) -> str:
        """The server's URL as the client sees it, without a slash at its end."""
        return str(self.request.base_url).rstrip("/")

    @cached_property
    def name(self) -> Name:
        """The repository's name. Raises InvalidName."""
        return Name.parse(f"{self.place.namespace}/{self.place.name}")

    def repository(self, *, writes: bool = False) -> Repository:
        """The repository. Raises ArtifactNotFound as it is hidden or missing, Forbidden when it may not be written."""
        found = self.registry.repositories.find(self.name)
        if writes:
            self.principal.require(Scope.WRITE, self.name.namespace)
        return found

    def flag(self, name: str) -> bool:
        """Whether a parameter of the query is set."""
        return self.request.query_params.get(name, "").lower() in ("1", "true")
