"""Which replica answers: one where the adapter is loaded already, unless that one is much busier than the others.

Rendezvous hashing (Thaler and Ravishankar, 1998): every replica has a score for every key, and the highest one wins.
So a replica that goes away moves only its own keys, each to its second choice. The bound on a replica's load follows
consistent hashing with bounded loads (arXiv:1608.01350).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

SPILL = 1.25
"""A replica takes at most this share of the mean load before the next in line is asked."""
SLACK = 4
"""Requests that never spill, however idle the others are."""


def preference(key: str, replicas: Sequence[str]) -> list[str]:
    """`replicas` in the order in which they are asked for `key`; the same whatever order they are given in."""
    return sorted(replicas, key=lambda replica: _score(key, replica), reverse=True)


def spread(key: str, load: Mapping[str, int]) -> list[str]:
    """`preference` over the replicas of `load` (requests in flight), those beyond the bound moved to the end.

    Of those, the least loaded comes first.
    """
    ordered = preference(key, list(load))
    bound = max(SLACK, math.ceil(SPILL * (sum(load.values()) + 1) / max(1, len(load))))
    free = [replica for replica in ordered if load[replica] < bound]
    return free + sorted((replica for replica in ordered if load[replica] >= bound), key=lambda each: load[each])


def _score(key: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{replica}".encode(), digest_size=8).digest()
