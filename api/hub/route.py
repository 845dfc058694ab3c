"""The Hub's protocol at the root of the server, behind everything else that is there.

It is one route of its own: it looks at the undecoded path and takes only paths of the protocol, so that nothing else
is hidden, and it answers failures as the Hub does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import URLPath
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from graftwork.api.dependencies.auth import NOBODY_ASKED, identify
from graftwork.api.dependencies.services import Services
from graftwork.api.hub import account, lfs, reading, tagging, writing
from graftwork.api.hub.bodies import MAX_BODY_BYTES
from graftwork.api.hub.call import Call
from graftwork.api.hub.failures import failure, refused
from graftwork.api.hub.paths import Place, parse_path
from graftwork.api.streams.bodies import read_body
from graftwork.api.streams.disconnect import CLIENT_GONE
from graftwork.errors import EntryNotFound, GraftworkError
from graftwork.registry.access.access import access

Small = Callable[[Call], Response]
Streaming = Callable[[Call], Awaitable[Response]]

OPERATIONS: Mapping[tuple[str, str], Small] = MappingProxyType(
    {
        ("whoami", "GET"): account.whoami,
        ("validate-yaml", "POST"): account.validate_yaml,
        ("create", "POST"): account.create,
        ("delete", "DELETE"): account.delete,
        ("models", "GET"): account.models,
        ("not-models", "GET"): account.not_models,
        ("unknown", "GET"): account.unknown,
        ("info", "GET"): reading.info,
        ("revision", "GET"): reading.info,
        ("tree", "GET"): reading.tree,
        ("paths-info", "POST"): reading.paths_info,
        ("refs", "GET"): reading.refs,
        ("commits", "GET"): reading.commits,
        ("resolve", "GET"): reading.resolve,
        ("settings", "PUT"): account.settings,
        ("preupload", "POST"): writing.preupload,
        ("tag", "POST"): tagging.create,
        ("tag", "DELETE"): tagging.delete,
        ("branch", "POST"): tagging.branch,
        ("lfs-batch", "POST"): lfs.batch,
        ("xet-write-token", "GET"): lfs.xet,
        ("xet-read-token", "GET"): lfs.xet,
        ("xet-advice", "GET"): lfs.xet_advice,
    }
)
"""What is done with a body that is read first."""
STREAMS: Mapping[tuple[str, str], Streaming] = MappingProxyType(
    {
        ("commit", "POST"): writing.receive_commit,
        ("lfs-transfer", "PUT"): lfs.receive,
        ("lfs-transfer", "POST"): lfs.complete,
    }
)
OPEN = frozenset({"lfs-transfer", "xet-advice"})
"""What needs no token: a link that says itself what it is good for, and advice."""
PLACE = "graftwork.hub"


class HubRoute(BaseRoute):
    """Every path of the Hub's protocol."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the path is one of the protocol, whatever the method."""
        if scope["type"] != "http":
            return Match.NONE, {}
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        root = scope.get("root_path", "").encode()
        place = parse_path(raw.removeprefix(root))
        return (Match.NONE, {}) if place is None else (Match.FULL, {PLACE: place, "endpoint": self})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that matched."""
        request = Request(scope, receive)
        response = await _answer(request, scope[PLACE])
        await response(scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The route has no name. Raises NoMatchFound."""
        raise NoMatchFound(name, path_params)


async def _answer(request: Request, place: Place) -> Response:
    services: Services = request.app.state.services
    method = "GET" if request.method == "HEAD" else request.method
    operation, stream = OPERATIONS.get((place.operation, method)), STREAMS.get((place.operation, method))
    if operation is None and stream is None:
        return refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} {request.url.path}: method not allowed.")
    try:
        if place.operation in OPEN:
            access.set(NOBODY_ASKED)
            principal = NOBODY_ASKED
        else:
            principal = await identify(request, services)
            services.rates.take(principal.owner)
        if stream is not None:
            return await stream(Call(request, services, principal, place))
        assert operation is not None  # noqa: S101
        body = b"" if method == "GET" else await read_body(request, limit=MAX_BODY_BYTES)
        return await run_in_threadpool(operation, Call(request, services, principal, place, body))
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    except GraftworkError as error:
        revision = str(error.fields["revision"]) if isinstance(error, EntryNotFound) else None
        return failure(error, has_token="authorization" in request.headers, revision=revision)
