"""One attempt at a job, in the process that calls it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

from graftwork import tracing
from graftwork.errors import Cancelled, DatabaseUnavailable, GraftworkError, LeaseLost
from graftwork.merge.jobs.kind import kind_named
from graftwork.merge.jobs.work import Tell, Work
from graftwork.registry.access.access import Access, acting_for
from graftwork.registry.jobs.jobs import Claim
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without a result. `stopped` when it did because it was told to."""

    code: str
    message: str
    retry: bool
    stopped: bool = False


def attempt(
    registry: Registry, settings: Settings, claim: Claim, *, tell: Tell, stop: threading.Event
) -> Failure | None:
    """Carry the job out; its result is recorded with it, and its failure is returned.

    Raises LeaseLost when another worker holds the job by now; then nothing was registered.
    """
    try:
        kind = kind_named(claim.job.kind)
        work = Work(registry, settings, claim, shares=kind.shares, tell=tell, stop=stop)
        job = {tracing.KIND: claim.job.kind, tracing.ID: claim.job.id}
        with acting_for(Access.of(claim.job.owner, claim.job.grants)), tracing.span(tracing.JOB, job):
            result = kind.run(work, kind.parse(claim.job.payload))
        if not work.finished:
            registry.jobs.finish(claim, result or {})
    except LeaseLost:
        raise
    except Cancelled as error:
        return Failure(error.code, str(error), retry=False, stopped=stop.is_set())
    except GraftworkError as error:
        return Failure(error.code, str(error), retry=isinstance(error, (DatabaseUnavailable, *kind.retried)))
    except MemoryError:
        limit = f"it may use {settings.job_memory} bytes (job_memory)" if settings.job_memory else "the machine is full"
        return Failure(GraftworkError.code, f"The job ran out of memory: {limit}.", retry=False)
    except Exception as error:
        logger.exception("job %s failed", claim.job.id)
        short = f" (it may use {settings.job_memory} bytes of memory, job_memory)" if settings.job_memory else ""
        return Failure(GraftworkError.code, f"{type(error).__name__}: {error}{short}", retry=True)
    return None


def as_line(failure: Failure | None) -> dict[str, Any]:
    """The last line of an attempt, as the worker reads it."""
    if failure is None:
        return {"end": None}
    return {
        "end": {
            "code": failure.code,
            "message": failure.message,
            "retry": failure.retry,
            "stopped": failure.stopped,
        }
    }
