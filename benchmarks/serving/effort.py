"""How much is asked of a system for one case."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serving.case import Case
from benchmarks.serving.measured import Run
from benchmarks.serving.trace import Asked, build_trace, warm_up

Answer = Callable[[Sequence[Asked]], Run]
"""Has a system answer a trace."""


@dataclass(frozen=True, slots=True)
class Effort:
    """So many rounds of so many requests, as long as there is time."""

    requests: int
    rounds: int
    seconds: float
    """After these for each case, no further round begins; the first always does."""

    def runs(self, case: Case, run: Answer) -> list[Run]:
        """What `run` makes of the case's requests, after a batch to warm up; each round has other prompts."""
        run(warm_up(adapters=case.adapters))
        return self.alternating({case: run})[case]

    def alternating(self, ways: Mapping[Case, Answer]) -> Mapping[Case, list[Run]]:
        """As `runs`, without warming up, for cases that one system has ready at once: a round of each in turn, so that
        a machine that is slower for a while is so for all of them.
        """
        found: dict[Case, list[Run]] = {case: [] for case in ways}
        began = time.perf_counter()
        for seed in range(self.rounds):
            if seed and time.perf_counter() - began > self.seconds * len(ways):
                break
            for case, run in ways.items():
                found[case].append(run(build_trace(self.requests, adapters=case.adapters, seed=seed)))
        return found
