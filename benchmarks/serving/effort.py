"""How much is asked of a system for one case."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving.case import Case
from benchmarks.serving.measured import Run
from benchmarks.serving.trace import Asked, build_trace, warm_up


@dataclass(frozen=True, slots=True)
class Effort:
    """So many rounds of so many requests, as long as there is time."""

    requests: int
    rounds: int
    seconds: float
    """After these, no further round begins; the first always does."""

    def runs(self, case: Case, run: Callable[[Sequence[Asked]], Run]) -> list[Run]:
        """What `run` makes of the case's requests, after a batch to warm up; each round has other prompts."""
        run(warm_up(adapters=case.adapters))
        found: list[Run] = []
        began = time.perf_counter()
        for seed in range(self.rounds):
            if found and time.perf_counter() - began > self.seconds:
                break
            found.append(run(build_trace(self.requests, adapters=case.adapters, seed=seed)))
        return found
