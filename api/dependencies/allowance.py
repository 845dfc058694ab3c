"""The tokens that a request may use: counted for its owner when it comes, corrected by what it did use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from graftwork.api.middleware.limits import Rates


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens that were taken out of an owner's bucket, until it is known how many were used."""

    rates: Rates
    owner: str
    taken: int

    def settle(self, used: int) -> None:
        """Put the rest back; what was used beyond is owed."""
        self.rates.give(self.owner, self.taken - used)


Reserve = Callable[[int], Reservation]
"""Takes so many tokens. Raises RateLimited."""


def reserving(rates: Rates, request: Request) -> Reserve:
    """Reservations for whoever sent `request`."""
    owner = str(request.state.principal.owner)
    return lambda tokens: Reservation(rates, owner, rates.take(owner, tokens))
