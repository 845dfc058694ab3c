"""Whose prompts are computed next: deficit round-robin between tenants."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping

from graftwork.errors import InvalidSetting

DEBT_TURNS = 32
"""How many turns a tenant can be behind at most, so that no past weighs on it for long."""


class Turns:
    """Tenants take turns; a turn is worth `quantum` tokens times the tenant's weight.

    A tenant's deficit is what it may still spend. Prompt tokens are paid when they are computed, generated ones after
    each step, for what a request will cost is not known beforehand; a deficit may therefore become negative, and its
    tenant sits out turns until it is not. A tenant alone pays nothing, and turns that are not used are not saved.

    While n tenants of weight 1 ask, one that asks and has no debt gets its turn before the others have spent
    (n - 1) * quantum tokens. Not thread-safe.
    Source: M. Shreedhar and G. Varghese, Efficient Fair Queueing using Deficit Round Robin, SIGCOMM 1995.
    """

    def __init__(self, quantum: int, weights: Mapping[str, float] | None = None) -> None:
        self._quantum = quantum
        self._weights = weights or {}
        self._deficits: OrderedDict[str, float] = OrderedDict()  # the first has the turn

    def weight(self, tenant: str) -> float:
        """The tenant's share relative to the others', 1 unless it was set."""
        return self._weights.get(tenant, 1.0)

    def deficit(self, tenant: str) -> float:
        """Tokens that the tenant may still spend; negative when it spent more."""
        return self._deficits.get(tenant, 0.0)

    def keep(self, tenants: Collection[str]) -> None:
        """Know exactly these tenants: new ones come last with a full turn, what the others had is forgotten."""
        for tenant in [tenant for tenant in self._deficits if tenant not in tenants]:
            del self._deficits[tenant]
        for tenant in tenants:
            self._deficits.setdefault(tenant, self._turn(tenant))

    def next(self, ready: Collection[str], blocked: Collection[str] = ()) -> tuple[str, int]:
        """Whose turn it is among the known tenants that are `ready` (one at least), and the tokens it may spend.

        Those that are `blocked` ask as well, but for something that is not there; they keep one turn.
        """
        while True:
            tenant = next(iter(self._deficits))
            if tenant in ready and self._deficits[tenant] >= 1:
                return tenant, int(self._deficits[tenant])
            after = self._deficits[tenant] + self._quantum * self.weight(tenant)
            asks = tenant in ready or tenant in blocked
            self._deficits[tenant] = min(after, self._turn(tenant) if asks else 0.0)
            self._deficits.move_to_end(tenant)

    def pay(self, costs: Mapping[str, int]) -> None:
        """Charge tokens to known tenants."""
        if len(self._deficits) < 2:
            return
        for tenant, tokens in costs.items():
            self._deficits[tenant] = max(self._deficits[tenant] - tokens, -DEBT_TURNS * self._turn(tenant))

    def _turn(self, tenant: str) -> float:
        return max(1.0, self._quantum * self.weight(tenant))


def parse_weights(text: str) -> dict[str, float]:
    """The setting tenant_weights: `name=2,other=0.5`. Raises InvalidSetting."""
    weights = {}
    for entry in filter(None, text.split(",")):
        tenant, _, weight = entry.rpartition("=")
        try:
            weights[tenant.strip()] = float(weight)
        except ValueError:
            weights[tenant.strip()] = math.nan
        if not tenant.strip() or not 0 < weights[tenant.strip()] < math.inf:
            expected = "tenants and their positive weights, such as name=2,other=0.5"
            raise InvalidSetting(name="GRAFTWORK_TENANT_WEIGHTS", value=text, expected=expected)
    return weights
