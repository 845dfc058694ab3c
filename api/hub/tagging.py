"""Tags as the Hub's clients make them: aliases of the artifact."""

from __future__ import annotations

from fastapi.responses import Response

from graftwork.api.hub.bodies import text
from graftwork.api.hub.call import Call
from graftwork.api.streams.bodies import parse_object
from graftwork.errors import AliasConflict, InvalidRequest
from graftwork.registry.refs import check_alias


def create(call: Call) -> Response:
    """`POST .../tag/REVISION`: point an alias that is not there yet at the version of a revision."""
    call.repository(writes=True)
    alias = check_alias(text(parse_object(call.body), "tag"))
    version = call.registry.repositories.view(call.name, call.place.revision).version
    if version is None:
        raise InvalidRequest(field="revision", reason=f"{call.place.revision!r} is a draft; a tag needs a version")
    known = call.registry.aliases.get(call.name).get(alias)
    if known is not None and known.digest != version.digest:
        raise AliasConflict(alias=alias, name=call.name, actual=known.digest, expected="no version")
    call.services.host.prepare(version)
    call.registry.aliases.set(
        call.name, alias, version.digest, actor=call.principal.owner, reason=f"tagged {version.ref}"
    )
    return Response(status_code=200)


def delete(call: Call) -> Response:
    """`DELETE .../tag/TAG`: remove an alias."""
    call.repository(writes=True)
    call.registry.aliases.delete(
        call.name, call.place.revision, actor=call.principal.owner, reason="the tag was deleted"
    )
    return Response(status_code=200)


def branch(call: Call) -> Response:
    """`POST .../branch/BRANCH`. Raises InvalidRequest: `main` is the only one."""
    call.repository(writes=True)
    raise InvalidRequest(field="branch", reason="a repository has one branch, main; aliases are made by create_tag")
