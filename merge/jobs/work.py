"""What a job sees of the process that carries it out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.orm import Session

from graftwork.errors import Cancelled
from graftwork.registry.jobs.jobs import Claim
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

Tell = Callable[[Mapping[str, Any]], None]
"""Takes a line for the worker: `{"progress": 0.5, "stage": "merge"}` or `{"log": "..."}`."""


class Work:
    """One attempt at a job: what it works with, and the way to tell how far it is."""

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        claim: Claim,
        *,
        shares: Mapping[str, tuple[float, float]],
        tell: Tell,
        stop: threading.Event,
    ) -> None:
        self.registry = registry
        self.settings = settings
        self.claim = claim
        self.finished = False
        """Whether the job is done, in the transaction that registered what it made."""
        self._shares = shares
        self._tell = tell
        self._stop = stop

    @property
    def stopping(self) -> bool:
        """Whether the job was told to stop."""
        return self._stop.is_set()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Tell how far the job is. Raises Cancelled when it was told to stop."""
        begin, share = self._shares.get(stage, (0.0, 1.0))
        self._tell({"progress": begin + share * (done / total if total else 1.0), "stage": stage})
        self.check()

    def check(self) -> None:
        """Raise Cancelled when the job was told to stop; for work that has no progress to tell."""
        if self.stopping:
            raise Cancelled(what=f"The {self.claim.job.kind} job {self.claim.job.id}")

    def log(self, text: str) -> None:
        """Add a line to the job's log."""
        self._tell({"log": text})

    def finish(self, session: Session, result: Mapping[str, Any]) -> None:
        """End the job in the transaction that registers what it made. Raises LeaseLost, and then nothing is made."""
        self.registry.jobs.finish(self.claim, result, session)
        self.finished = True
