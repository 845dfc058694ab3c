"""Texts on their way through an encoder engine: what was asked, and what its caller waits for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from graftwork.adapters.encoder.batch import Tokens
from graftwork.adapters.residency.lease import Lease

Purpose = Literal["vectors", "logits"]


@dataclass(frozen=True, slots=True)
class Request:
    """Texts for the base (no lease) or for the adapter that the lease pins. The engine takes the lease over."""

    texts: Sequence[Tokens]
    purpose: Purpose = "vectors"
    """A vector of each text, or the logits of its classification."""
    lease: Lease | None = None
    tenant: str = ""
    """Who shares the engine fairly with others."""
    deadline: float | None = None
    """On the clock of `time.monotonic`; afterwards nobody waits for it."""


class Encoding(Future[list[Tensor]]):
    """The caller's end of a request: a future of one float32 vector a text, in their order.

    Vectors are [width] and not normalised; logits are [labels]. `cancel` ends the request at the engine's next step.
    """

    def __init__(self, tokens: int, wake: Callable[[], None]) -> None:
        super().__init__()
        self.tokens = tokens
        """Tokens of all texts together."""
        self._wake = wake

    def abort(self) -> None:
        """End the request. Does nothing once it is done."""
        if self.cancel():
            self._wake()


@dataclass(slots=True, eq=False)
class Job:
    """A request inside the engine. It keeps its lease from admission to the end."""

    request: Request
    encoding: Encoding
    lease: Lease | None
    begun: int = 0
    """How many of its texts were taken into a step."""
    since: float = field(default_factory=time.monotonic)
    results: dict[int, Tensor] = field(default_factory=dict)
    """What was computed, by the text's place."""

    @property
    def waiting(self) -> bool:
        """Whether texts of it are in no step yet."""
        return self.begun < len(self.request.texts)

    @property
    def waited(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.since

    @property
    def late(self) -> bool:
        """Whether its deadline is over."""
        return self.request.deadline is not None and time.monotonic() > self.request.deadline


@dataclass(frozen=True, slots=True)
class Work:
    """One text of a job, in a step."""

    job: Job
    place: int

    @property
    def tokens(self) -> Tokens:
        """The text."""
        return self.job.request.texts[self.place]
