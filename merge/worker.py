"""Merges as jobs: submitted to the registry's queue, carried out by whoever holds the lease."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from graftwork.errors import Cancelled, GraftworkError, HubUnavailable, InputChanged, LeaseLost
from graftwork.merge.models.sources import HUB, Finder
from graftwork.merge.plan import plan
from graftwork.merge.publish import artifact_name, publish
from graftwork.merge.recipe import Recipe, digest, load_recipe
from graftwork.registry.jobs import Claim, Job
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Version
from graftwork.settings import Settings

KIND = "merge"
LEASE_SECONDS = 30.0
IDLE_SECONDS = 0.5
WORTH_A_RETRY = (InputChanged, HubUnavailable)
SHARES: Mapping[str, tuple[float, float]] = {"measure": (0.0, 0.3), "merge": (0.3, 0.6), "import": (0.9, 0.1)}
"""Where each stage begins in a job's progress, and how much of it it is."""

logger = logging.getLogger(__name__)


def submit(registry: Registry, recipe: Recipe, *, settings: Settings, name: str | None = None) -> Job:
    """Queue a merge, or return the queued or running job that makes the same thing.

    References are pinned to the versions they mean now, and a recipe over versions is planned, so what is wrong with
    it is raised here, as `plan` does; what is on the Hub is fetched by the worker. Folders are not accepted as models.
    """
    target = artifact_name(recipe, name)
    pinned = _pin(recipe, Finder(registry, paths=False))
    if not any(reference.startswith(HUB) for reference in _references(pinned)):
        plan(pinned, settings=settings, registry=registry, paths=False).close()
    payload = {"name": str(target), "recipe": pinned.model_dump(mode="json", exclude_defaults=True)}
    wanted = "\n".join((target.key, *recipe.output.aliases, digest(pinned)))
    return registry.jobs.enqueue(KIND, payload, key=f"{KIND}:{hashlib.sha256(wanted.encode()).hexdigest()}")


def run_worker(registry: Registry, settings: Settings, stop: threading.Event) -> None:
    """Carry out merge jobs until `stop` is set; a merge that runs then is given back to the queue.

    A database that cannot be reached for a while does not end it.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    while not stop.is_set():
        try:
            busy = run_next(registry, settings, worker=worker, stop=stop)
        except DBAPIError:
            logger.exception("the job queue cannot be reached; trying again")
            busy = False
        if not busy:
            stop.wait(IDLE_SECONDS)


def run_next(
    registry: Registry,
    settings: Settings,
    *,
    worker: str,
    stop: threading.Event | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> bool:
    """Claim one waiting job and carry it out. Returns whether there was one.

    The job's failure is recorded with it and not raised.
    """
    claim = registry.jobs.claim(worker, [KIND], lease_seconds)
    if claim is None:
        return False
    stopping = stop or threading.Event()
    with _kept(registry, claim, stopping) as lease:
        try:
            _carry_out(registry, settings, claim, lease)
        except LeaseLost:
            logger.warning("job %s was taken over by another worker", claim.job.id)
        except Cancelled as error:
            _end(registry, claim, error, given_back=stopping.is_set() and not lease.cancelled)
        except GraftworkError as error:
            _fail(registry, claim, error.code, str(error), retry=isinstance(error, WORTH_A_RETRY))
        except Exception as error:
            logger.exception("job %s failed", claim.job.id)
            _fail(registry, claim, GraftworkError.code, f"{type(error).__name__}: {error}", retry=True)
    return True


class Lease:
    """What the heartbeat knows of a claim; the merge asks it between two slices whether to go on."""

    def __init__(self, claim: Claim, stop: threading.Event) -> None:
        self.claim = claim
        self.stop = stop
        self.fraction = 0.0
        self.cancelled = False
        self.lost = False

    def progress(self, stage: str, done: int, total: int) -> None:
        """Note how far the merge is. Raises LeaseLost, Cancelled."""
        begin, share = SHARES[stage]
        self.fraction = begin + share * (done / total if total else 1.0)
        if self.lost:
            raise LeaseLost(id=self.claim.job.id)
        if self.cancelled or self.stop.is_set():
            raise Cancelled(what=f"The merge {self.claim.job.id}")


@contextmanager
def _kept(registry: Registry, claim: Claim, stop: threading.Event) -> Iterator[Lease]:
    """Renew the claim every third of its time, until the end of the block or until it is lost."""
    lease, over = Lease(claim, stop), threading.Event()

    def beat() -> None:
        while not over.wait(claim.ttl / 3):
            try:
                lease.cancelled = registry.jobs.heartbeat(claim, lease.fraction)
            except LeaseLost:
                lease.lost = not over.is_set()
                return
            except DBAPIError:
                logger.exception("the lease of job %s was not renewed; trying again", claim.job.id)

    thread = threading.Thread(target=beat, name=f"lease-{claim.job.id}", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        over.set()
        thread.join()


def _carry_out(registry: Registry, settings: Settings, claim: Claim, lease: Lease) -> None:
    payload: Mapping[str, Any] = claim.job.payload

    def finish(session: Session, version: Version) -> None:
        registry.jobs.finish(claim, {"name": str(version.name), "ref": version.ref, "digest": version.digest}, session)

    publish(
        load_recipe(payload["recipe"]),
        registry=registry,
        settings=settings,
        progress=lease.progress,
        name=payload["name"],
        paths=False,
        also=finish,
        keep=lambda: lease.stop.is_set() and not lease.cancelled,
    )


def _end(registry: Registry, claim: Claim, error: Cancelled, *, given_back: bool) -> None:
    if not given_back:
        _fail(registry, claim, error.code, str(error), retry=False)
        return
    try:
        registry.jobs.release(claim)
    except LeaseLost:
        logger.warning("job %s was taken over by another worker", claim.job.id)


def _fail(registry: Registry, claim: Claim, code: str, message: str, *, retry: bool) -> None:
    try:
        registry.jobs.fail(claim, code, message, retry=retry)
    except LeaseLost:
        logger.warning("job %s was taken over by another worker", claim.job.id)


def _references(recipe: Recipe) -> list[str]:
    return [reference for part in (*recipe.steps, recipe) for reference in part.references]


def _pin(recipe: Recipe, finder: Finder) -> Recipe:
    def pinned(reference: str) -> str:
        version = finder.version(reference)
        if version is None and "+" in reference:
            model, _, adapter = reference.rpartition("+")
            return f"{pinned(model)}+{pinned(adapter)}"
        return version.ref if version is not None else reference

    return recipe.with_references(pinned)
