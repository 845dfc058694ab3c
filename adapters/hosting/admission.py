"""What a request was resolved to: an engine, and a pinned adapter."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.experts.request import route
from graftwork.adapters.experts.target import Target
from graftwork.adapters.residency.lease import Lease
from graftwork.errors import InvalidRequest
from graftwork.registry.versions.version import Version

Serving = Engine | EncoderEngine


@dataclass(frozen=True, slots=True)
class Admission:
    """Made once and for good: aliases may move while the request runs."""

    serving: Serving
    lease: Lease | None
    """The pinned adapter; None for a base. Give it to the engine's `submit`, or release it."""
    target: Target

    @property
    def engine(self) -> Engine:
        """The engine that continues texts. Raises InvalidRequest when the base is an encoder."""
        if isinstance(self.serving, Engine):
            return self.serving
        reason = f"{self.base.name} is an encoder: it embeds and classifies texts, and does not continue them"
        raise InvalidRequest(field="model", reason=reason)

    @property
    def encoder(self) -> EncoderEngine:
        """The engine that embeds and classifies texts.

        Raises InvalidRequest when the base is no encoder, or when an expert set on it is routed once for each request.
        """
        if self.target.routes_requests and isinstance(self.serving, EncoderEngine):
            reason = f"{self.target.name} is routed once for each request, by a base that continues texts"
            raise InvalidRequest(field="model", reason=f"{reason}; on an encoder, sets are routed token by token")
        if isinstance(self.serving, EncoderEngine):
            return self.serving
        reason = f"{self.base.name} is no encoder: it continues texts, and does not embed or classify them"
        raise InvalidRequest(field="model", reason=reason)

    @property
    def base(self) -> Version:
        """The base that computes it."""
        return self.target.base

    @property
    def adapter(self) -> Version | None:
        """The adapter or the expert set; None for a base alone and for a mixture."""
        return None if self.target.source is None else self.target.version

    @property
    def digest(self) -> str:
        """What names what answers: a version's digest, or that of a mixture."""
        return self.target.digest

    @property
    def served(self) -> str:
        """`ns/name@<12 digits of the digest>`, or `mixture@<12 digits>`."""
        return self.target.served

    def lease_for(self, prompt_ids: Sequence[int]) -> Lease | None:
        """The lease for a request with this prompt, which takes the pin over; None for a base.

        It is `lease` itself unless the expert set is routed once for each request: then the base reads the prompt now.
        Raises what `Engine.read` raises; the pin is released then.
        """
        if self.lease is None or not self.target.routes_requests:
            return self.lease
        return route(self.engine, self.lease, prompt_ids)

    def release(self) -> None:
        """Give the pin back, if there is one."""
        if self.lease is not None:
            self.lease.release()


def give_back(pending: Future[Admission]) -> None:
    """Release what `Host.request` promised, as soon as it is there (a callback of the future)."""
    if not pending.cancelled() and pending.exception() is None:
        pending.result().release()
