"""Calls of `lora_expand` for its test and its benchmark."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graftwork.kernels.case import Case
from graftwork.kernels.lora_shrink.cases import BATCHES, pool


def cases(dtype: str) -> Iterator[Case]:
    """The batches of `lora_shrink`."""
    for name, (slots, ranks, width) in BATCHES.items():
        yield _case(name, slots, ranks, width, dtype)


def workload(dtype: str) -> Case:
    """A mixed batch of 64 tokens and 8 adapters of rank 16 on a layer 2048 wide."""
    return _case("mixed", [t // 8 for t in range(64)], [16] * 8, 2048, dtype)


def _case(name: str, slots: list[int], ranks: list[int], width: int, dtype: str) -> Case:
    rng = np.random.default_rng(9)
    arguments = pool(rng, slots, ranks, width, dtype)
    h = rng.normal(size=(len(slots), max(ranks, default=0))).astype(np.float32)
    return Case(name, {"y": arguments["tokens"], "h": h, "b": arguments["pool"], **arguments["slots"]}, writes="y")
