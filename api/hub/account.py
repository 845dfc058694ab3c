"""Who somebody is to the Hub's clients, and repositories as a whole: created, listed, hidden, deleted."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from fastapi.responses import JSONResponse, Response

from graftwork.api.dependencies.auth import LOCAL_OWNER
from graftwork.api.hub.bodies import text
from graftwork.api.hub.call import Call
from graftwork.api.hub.paths import RESERVED
from graftwork.api.hub.reading import summary
from graftwork.api.streams.bodies import parse_object
from graftwork.errors import ArtifactNotFound, InvalidRequest, RepositoryExists
from graftwork.registry.access.grants import EVERYWHERE, Scope
from graftwork.registry.refs import Name
from graftwork.registry.versions.version import Kind

LOCAL_NAMESPACE = "local"
"""Of repositories that are named without one where nobody is asked who they are."""
MODELS = (Kind.BASE, Kind.CHECKPOINT, Kind.ADAPTER, Kind.TASK_VECTOR, Kind.EXPERT_SET)
MAX_LISTED = 1000
MAX_SEARCH = 256
MODEL = "model"


def whoami(call: Call) -> Response:
    """`GET /api/whoami-v2`: the owner of the token; namespaces in which it may write are its organisations."""
    grants = call.principal.grants
    writable = sorted(place for place in grants.scopes if place != EVERYWHERE and grants.allow(Scope.WRITE, place))
    role = "write" if writable or grants.allow(Scope.WRITE, EVERYWHERE) else "read"
    name = _own_namespace(call)
    return JSONResponse(
        {
            "type": "user",
            "id": name,
            "name": name,
            "fullname": name,
            "isPro": False,
            "orgs": [
                {"type": "org", "id": org, "name": org, "fullname": org, "roleInOrg": "write"} for org in writable
            ],
            "auth": {"type": "access_token", "accessToken": {"displayName": name, "role": role}},
        }
    )


def validate_yaml(call: Call) -> Response:
    """`POST /api/validate-yaml`: any card will do."""
    parse_object(call.body)
    return JSONResponse({"errors": [], "warnings": []})


def create(call: Call) -> Response:
    """`POST /api/repos/create`. One that is there is a 409 with its `url`."""
    given = parse_object(call.body)
    name = _named(call, given)
    if name.namespace.lower() in RESERVED:
        raise InvalidRequest(field="organization", reason=f"{name.namespace!r} cannot be a namespace of repositories")
    private = given.get("private") is True or given.get("visibility") == "private"
    url = {"url": f"{call.url}/{name}", "name": str(name), "id": str(name)}
    try:
        call.registry.repositories.create(name, private=private, actor=call.principal.owner)
    except RepositoryExists as error:
        message = str(error)
        headers = {"X-Error-Message": message}
        return JSONResponse({**url, "error": message}, HTTPStatus.CONFLICT, headers=headers)
    return JSONResponse(url)


def delete(call: Call) -> Response:
    """`DELETE /api/repos/delete`, of a repository of which no version is left."""
    name = _named(call, parse_object(call.body))
    call.registry.repositories.delete(name, actor=call.principal.owner)
    return Response(status_code=200)


def settings(call: Call) -> Response:
    """`PUT .../settings`: whether the repository is private."""
    given = parse_object(call.body)
    call.repository(writes=True)
    if given.get("gated"):
        raise InvalidRequest(field="gated", reason="repositories are private or public here, never gated")
    private = given.get("private", {"private": True, "public": False}.get(str(given.get("visibility"))))
    if not isinstance(private, bool):
        raise InvalidRequest(field="visibility", reason="it must be private or public")
    call.registry.repositories.set_private(call.name, private, actor=call.principal.owner)
    return JSONResponse({"private": private})


def models(call: Call) -> Response:
    """`GET /api/models`: models by `author` and a `search` in their names, in the order of these; `filter` by tags."""
    query = call.request.query_params
    limit = query.get("limit", "")
    wanted = min(int(limit), MAX_LISTED) if limit.isdecimal() and len(limit) < 10 else MAX_LISTED
    search, author, after = (_searched(query.get(name)) for name in ("search", "author", "cursor"))
    found = call.registry.catalog.list(namespace=author, search=search, limit=wanted + 1, after=after)
    page = found[:wanted]
    tags = set(query.getlist("filter")) | set(query.getlist("pipeline_tag"))
    items: list[dict[str, Any]] = []
    for artifact in page:
        if artifact.kind in MODELS:
            item = summary(call, call.registry.repositories.view(artifact.name))
            if tags <= set(item["tags"]):
                items.append(item)
    headers = {}
    if len(found) > wanted and page:
        rest = urlencode([*((k, v) for k, v in query.multi_items() if k != "cursor"), ("cursor", str(page[-1].name))])
        headers["Link"] = f'<{call.url}/api/models?{rest}>; rel="next"'
    return JSONResponse(items, headers=headers)


def not_models(call: Call) -> Response:
    """`/api/datasets/...`, `/api/spaces/...`. Raises ArtifactNotFound."""
    raise ArtifactNotFound(name=call.place.path)


def unknown(call: Call) -> Response:
    """A model without a namespace. Raises ArtifactNotFound."""
    raise ArtifactNotFound(name=call.place.name)


def _named(call: Call, given: dict[str, Any]) -> Name:
    if given.get("type") not in (None, MODEL):
        raise InvalidRequest(field="type", reason="repositories hold models here; the type must be model")
    namespace, slash, name = text(given, "name").rpartition("/")
    return Name.parse(f"{namespace if slash else text(given, 'organization', _own_namespace(call))}/{name}")


def _own_namespace(call: Call) -> str:
    return LOCAL_NAMESPACE if call.principal.owner == LOCAL_OWNER else call.principal.owner


def _searched(value: str | None) -> str | None:
    if value is None or len(value) > MAX_SEARCH or "\0" in value:
        return None
    return value
