"""The worker: claims jobs, has each carried out by a process of its own, and keeps the lease meanwhile."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from sqlalchemy.exc import DBAPIError

from graftwork.context import job_id
from graftwork.errors import Cancelled, DatabaseUnavailable, GraftworkError, LeaseLost
from graftwork.merge.jobs.attempt import Failure
from graftwork.merge.jobs.kind import MODULES
from graftwork.registry.jobs.events import EventKind
from graftwork.registry.jobs.jobs import ENDED, Claim, Job
from graftwork.registry.registry import Registry
from graftwork.settings import Settings, environment

LEASE_SECONDS = 30.0
IDLE_SECONDS = 0.5
POLL_SECONDS = 0.2
"""How often a worker looks whether its job is to be cancelled."""
GRACE_SECONDS = 0.5
"""What a job has to clean up after it was told to stop."""
LAST_WORDS = 4096

logger = logging.getLogger(__name__)


def run_worker(
    registry: Registry,
    settings: Settings,
    stop: threading.Event,
    kinds: Sequence[str] = (),
    *,
    lease_seconds: float = LEASE_SECONDS,
) -> None:
    """Carry out jobs of `kinds` (all, by default) until `stop` is set; the one that runs then is given back.

    A database that cannot be reached for a while does not end it.
    """
    worker = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    while not stop.is_set():
        try:
            busy = run_next(registry, settings, worker=worker, stop=stop, kinds=kinds, lease_seconds=lease_seconds)
        except DatabaseUnavailable:  # the database said so, once
            busy = False
        except DBAPIError:
            logger.exception("the job queue cannot be used; trying again")
            busy = False
        if not busy:
            stop.wait(IDLE_SECONDS)


def run_next(
    registry: Registry,
    settings: Settings,
    *,
    worker: str,
    stop: threading.Event | None = None,
    kinds: Sequence[str] = (),
    lease_seconds: float = LEASE_SECONDS,
) -> bool:
    """Claim one waiting job and see it through. Returns whether there was one.

    The job's failure is recorded with it and not raised.
    """
    claim = registry.jobs.claim(worker, list(kinds or MODULES), lease_seconds)
    if claim is None:
        return False
    job_id.set(claim.job.id)
    logger.info("the %s job begins", claim.job.kind, extra={"kind": claim.job.kind, "attempt": claim.job.attempt})
    with Child(settings, claim) as child:
        try:
            Watch(registry, claim, child, stop or threading.Event()).see_through()
        except LeaseLost:
            logger.warning("job %s was taken over by another worker", claim.job.id)
    ended = registry.jobs.get(claim.job.id)
    logger.info("the %s job is %s", ended.kind, ended.state, extra={"kind": ended.kind, "state": str(ended.state)})
    job_id.set(None)
    return True


class Child:
    """The process of one job. Leaving the context ends it."""

    def __init__(self, settings: Settings, claim: Claim) -> None:
        self._claim = claim
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        arguments = [claim.job.id, claim.worker, str(claim.fence), str(claim.ttl)]
        self._process = subprocess.Popen(  # noqa: S603  our own interpreter, with arguments of our own
            [sys.executable, "-m", "graftwork.merge.jobs.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(settings),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"job-{claim.job.id}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def lines(self, timeout: float) -> list[dict[str, Any] | None]:
        """What it said since the last call, waited for at most `timeout` seconds; None after its last line."""
        try:
            found = [self._lines.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._lines.empty():
            found.append(self._lines.get())
        return found

    def stop(self) -> None:
        """Tell it to stop."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and whatever it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """How it ended, and the end of what it wrote to standard error."""
        code = self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS))
        said = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"Its process {how}{': ' + said if said else ''}."

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  it is a pipe
        for line in stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)


class Watch:
    """A worker's care of one job while its child works."""

    def __init__(self, registry: Registry, claim: Claim, child: Child, stop: threading.Event) -> None:
        self._registry = registry
        self._claim = claim
        self._child = child
        self._stop = stop
        self._cancelled = False
        self._told_at: float | None = None
        self._beaten_at = time.monotonic()
        self._fraction = 0.0
        self._stage = ""
        self._told_progress = ("", 0.0)
        self._log: list[dict[str, Any]] = []

    def see_through(self) -> None:
        """Keep the lease and pass on what the child says, until it ends or has to. Raises LeaseLost."""
        while True:
            for line in self._child.lines(POLL_SECONDS):
                if line is None:
                    self._failed(Failure(GraftworkError.code, self._child.last_words(), retry=True, stopped=self._told))
                    return
                if "end" in line:
                    self._ended(line["end"])
                    return
                self._hear(line)
            if self._told_at is not None and time.monotonic() - self._told_at > GRACE_SECONDS:
                self._child.kill()
                what = f"The {self._claim.job.kind} job {self._claim.job.id}"
                self._failed(Failure(Cancelled.code, str(Cancelled(what=what)), retry=False, stopped=True))
                return
            try:
                self._look()
            except DatabaseUnavailable:
                continue
            except DBAPIError:
                logger.exception("the state of job %s cannot be read or written; trying again", self._claim.job.id)

    @property
    def _told(self) -> bool:
        return self._told_at is not None

    def _hear(self, line: dict[str, Any]) -> None:
        if "log" in line:
            self._log.append({"text": line["log"]})
        else:
            self._fraction, self._stage = line["progress"], line["stage"]

    def _look(self) -> None:
        jobs, claim = self._registry.jobs, self._claim
        job = jobs.get(claim.job.id)
        if self._is_done(job):
            return
        self._tell()
        self._cancelled = job.cancel_requested
        if (self._cancelled or self._stop.is_set()) and not self._told:
            self._told_at = time.monotonic()
            self._child.stop()
        if time.monotonic() - self._beaten_at > claim.ttl / 3:
            self._beat()

    def _is_done(self, job: Job) -> bool:
        """Whether the child recorded its result, and is about to end."""
        return job.state in ENDED and job.attempt == self._claim.job.attempt

    def _beat(self) -> None:
        try:
            self._registry.jobs.heartbeat(self._claim, self._fraction)
        except LeaseLost:
            if not self._is_done(self._registry.jobs.get(self._claim.job.id)):
                raise
        self._beaten_at = time.monotonic()

    def _tell(self) -> None:
        events, job = self._registry.job_events, self._claim.job.id
        events.append(job, EventKind.LOG, self._log)
        self._log = []
        if (self._stage, self._fraction) != self._told_progress:
            events.append(job, EventKind.PROGRESS, [{"stage": self._stage, "progress": self._fraction}])
            self._told_progress = (self._stage, self._fraction)
            self._beat()

    def _ended(self, end: dict[str, Any] | None) -> None:
        if end is not None:
            self._failed(Failure(**end))
        else:
            self._registry.job_events.append(self._claim.job.id, EventKind.LOG, self._log)

    def _failed(self, failure: Failure) -> None:
        jobs, claim = self._registry.jobs, self._claim
        self._registry.job_events.append(claim.job.id, EventKind.LOG, self._log)
        if failure.stopped and not self._cancelled:
            jobs.release(claim)
        else:
            jobs.fail(claim, failure.code, failure.message, retry=failure.retry)
