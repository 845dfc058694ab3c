"""The events of a job as a stream that a client can take up again where it lost it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool

from graftwork.registry.jobs.events import EventKind, JobEvent
from graftwork.registry.jobs.jobs import ENDED
from graftwork.registry.registry import Registry

POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0
BATCH = 500


async def job_stream(registry: Registry, job: str, position: int) -> AsyncIterator[str]:
    """Server-sent events of `job` after the event `position`, up to the one that ends it.

    Each has the event's id, which a client sends as Last-Event-ID when it comes back, its kind as the event's name, and
    JSON as data. A comment keeps a quiet connection open. What the worker writes down a moment after the end comes too.
    """
    spoken, ending = time.monotonic(), False
    while True:
        events = await run_in_threadpool(registry.job_events.after, job, position, BATCH)
        for event in events:
            yield _format(event)
            position, spoken = event.id, time.monotonic()
        if ending:
            return
        ending = any(_ends(event) for event in events)
        if not events:
            ending = not await run_in_threadpool(_may_go_on, registry, job)
            if time.monotonic() - spoken > HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                spoken = time.monotonic()
        if ending or not events:
            await asyncio.sleep(POLL_SECONDS)


def _may_go_on(registry: Registry, job: str) -> bool:
    return registry.jobs.get(job).state not in ENDED


def _format(event: JobEvent) -> str:
    data = {**event.data, "at": event.happened_at.isoformat()}
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n"


def _ends(event: JobEvent) -> bool:
    return event.kind is EventKind.STATE and event.data["state"] in ENDED
