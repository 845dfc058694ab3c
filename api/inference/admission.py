"""From a model's name to its admission, and whose share of the engine a request uses."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from graftwork import tracing
from graftwork.adapters.hosting.admission import Admission, give_back
from graftwork.api.dependencies.services import Services, embedded
from graftwork.api.streams.disconnect import unless_gone
from graftwork.errors import (
    ArtifactNotFound,
    Cancelled,
    GraftworkError,
    InvalidReference,
    ModelNotFound,
    RevisionNotFound,
)

VERSION_HEADER = "X-Graftwork-Version"
TENANT_HEADER = "X-Graftwork-Tenant"


async def admit(services: Services, request: Request, model: str) -> Admission:
    """Resolve `model` once and pin it. Nothing stays pinned when this raises.

    Raises ModelNotFound, NoAdapterCapacity, Overloaded, Cancelled when the client goes away meanwhile, and what loading
    a model raises.
    """
    pending = embedded(services).request(model)
    admitting = asyncio.wrap_future(pending)
    try:
        with tracing.span(tracing.ADMISSION, {tracing.REQUEST_MODEL: model}):
            return await unless_gone(request.receive, admitting, admitting.cancel)
    except (ArtifactNotFound, RevisionNotFound, InvalidReference) as error:
        raise ModelNotFound(model=model, reason=_clause(error)) from None
    except (asyncio.CancelledError, Cancelled):
        pending.add_done_callback(give_back)
        raise


def tenant_of(services: Services, request: Request, otherwise: str) -> str:
    """Whose share of the engine a request uses: its token's owner, who cannot choose another one."""
    if services.settings.authenticated:
        return str(request.state.principal.owner)
    return request.headers.get(TENANT_HEADER) or otherwise


def _clause(error: GraftworkError) -> str:
    """The error's sentence as a part of another one."""
    return str(error).removesuffix(".").replace("There is", "there is", 1)
