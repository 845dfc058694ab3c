"""From a model's name to what an encoder makes of texts, and from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from torch import Tensor

from graftwork.adapters.encoder import requests
from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.encoder.labels import Labels
from graftwork.adapters.encoder.reading import Text
from graftwork.adapters.encoder.requests import Encoding, Purpose
from graftwork.adapters.hosting.admission import Admission
from graftwork.api.dependencies.allowance import Reserve, reserving
from graftwork.api.dependencies.services import Services
from graftwork.api.inference.admission import VERSION_HEADER, admit, tenant_of
from graftwork.api.schemas.encoding import EncodingFields
from graftwork.api.streams.disconnect import unless_gone
from graftwork.registry.transfer.snapshots import materialise

Check = Callable[[EncoderEngine], None]
"""Refuses what the engine cannot do, before anything is computed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a client wants of an encoder."""

    fields: EncodingFields
    texts: Sequence[Text]
    purpose: Purpose
    check: Check | None
    tenant: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """A queued request, and what is known of its answer."""

    encoding: Encoding
    digest: str
    """Of the version that answers: the adapter's, or the base's."""
    engine: EncoderEngine
    labels: Labels | None
    """What logits mean."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder made of texts."""

    results: list[Tensor]
    """One a text: its vector, not normalised, or its logits."""
    submitted: Submitted

    @property
    def tokens(self) -> int:
        """Of all texts together."""
        return self.submitted.encoding.tokens

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that name the version."""
        return {VERSION_HEADER: self.submitted.digest}


async def encode(
    services: Services,
    request: Request,
    fields: EncodingFields,
    texts: Sequence[Text],
    purpose: Purpose,
    check: Check | None = None,
) -> Encoded:
    """Resolve the model once, pin it, and wait for what it makes of `texts`.

    It is cancelled when the client goes away. Raises ModelNotFound, NoAdapterCapacity, Overloaded, RateLimited,
    DeadlineExceeded, InvalidRequest, Cancelled, and what loading a model raises.
    """
    tenant = tenant_of(services, request, fields.user or fields.model)
    job = Job(fields, texts, purpose, check, tenant)
    admission = await admit(services, request, fields.model)
    reserve = reserving(services.token_rates, request)
    submitted = await to_thread.run_sync(_submit, services, admission, job, reserve, limiter=services.admission)
    encoding = submitted.encoding
    try:
        return Encoded(await unless_gone(request.receive, asyncio.wrap_future(encoding), encoding.abort), submitted)
    finally:
        encoding.abort()


def _submit(services: Services, admission: Admission, job: Job, reserve: Reserve) -> Submitted:
    with ExitStack() as undo:
        undo.callback(admission.release)
        engine = admission.encoder
        if job.check is not None:
            job.check(engine)
        labels = None
        if job.purpose == "logits":
            resident = admission.lease.resident if admission.lease is not None else None
            labels = engine.labels(resident, _folder(services, admission))
        read = engine.reader.read(job.texts, truncate=job.fields.cut)
        undo.callback(reserve(sum(map(len, read))).settle, 0)
        allowed = min(job.fields.timeout or services.settings.request_timeout, services.settings.request_timeout)
        deadline = time.monotonic() + allowed
        encoding = engine.submit(requests.Request(read, job.purpose, admission.lease, job.tenant, deadline))
        undo.pop_all()
    return Submitted(encoding, admission.digest, engine, labels)


def _folder(services: Services, admission: Admission) -> Path | None:
    return None if admission.adapter is None else materialise(services.registry, admission.adapter)
