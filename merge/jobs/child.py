"""The process that carries out one job: `python -m graftwork.merge.jobs.child JOB WORKER FENCE TTL`.

It writes a JSON object a line to the pipe that was its standard output: progress, log lines, and how it ended. Whatever
else is printed goes to standard error. Its standard input says nothing; it ends when the worker does, and then so does
this process.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from graftwork import tracing
from graftwork.context import job_id
from graftwork.errors import LeaseLost
from graftwork.merge.jobs.attempt import as_line, attempt
from graftwork.registry.jobs.jobs import Claim
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings

ORPHANED = 3
LOST = 4


class Lines:
    """The way back to the worker; any thread may write."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def tell(self, line: Mapping[str, Any]) -> None:
        """Send one line. Ends the process when nobody reads any more."""
        try:
            with self._lock:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
        except BrokenPipeError:
            os._exit(ORPHANED)


class LogLines(logging.Handler):
    """Log records as lines of the job's log."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._lines.tell({"log": self.format(record)})


def main(job: str, worker: str, fence: str, ttl: str) -> int:
    """Carry out the job that the worker holds. Returns the exit code."""
    lines = Lines(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_worker, name="orphan", daemon=True).start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("graftwork").addHandler(LogLines(lines))
    settings = load_settings()
    job_id.set(job)
    tracing.configure(settings)
    if settings.job_memory:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.job_memory, settings.job_memory))
    with Registry.open(settings) as registry:
        claim = Claim(registry.jobs.get(job), worker, int(fence), float(ttl))
        try:
            failure = attempt(registry, settings, claim, tell=lines.tell, stop=stop)
        except LeaseLost:
            return LOST
    lines.tell(as_line(failure))
    return 0


def _end_with_worker() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
