"""What a run of a trace came to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil


@dataclass(slots=True)
class Timeline:
    """When one request was sent, and when each of its tokens came, in seconds of one clock."""

    sent: float
    tokens: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between one token and the next."""
        return [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Run:
    """A trace's timelines, its seconds by the clock and on processors of the system that answered."""

    timelines: Sequence[Timeline]
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self._tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Output tokens per second of processor time."""
        return self._tokens / self.cpu_seconds

    @property
    def _tokens(self) -> int:
        return sum(len(timeline.tokens) for timeline in self.timelines)


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the table, over the runs of one case; times in milliseconds, memory in bytes."""

    rate: float
    cpu_rate: float
    first_p50: float
    first_p99: float
    token_p50: float
    token_p99: float
    rounds: int
    load: float | None = None
    """Until the first token of an adapter that was never used, beyond that of one that was."""
    memory: float | None = None
    """Of resident memory for each adapter."""


def summarise(runs: Sequence[Run], *, load: float | None = None, memory: float | None = None) -> Figures:
    """The median rate of `runs`, and percentiles over all of their requests and tokens."""
    firsts = [timeline.first * 1e3 for run in runs for timeline in run.timelines]
    gaps = [gap * 1e3 for run in runs for timeline in run.timelines for gap in timeline.gaps]
    return Figures(
        rate=statistics.median(run.rate for run in runs),
        cpu_rate=statistics.median(run.cpu_rate for run in runs),
        first_p50=percentile(firsts, 50),
        first_p99=percentile(firsts, 99),
        token_p50=percentile(gaps, 50),
        token_p99=percentile(gaps, 99),
        rounds=len(runs),
        load=load,
        memory=memory,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def cpu_seconds(pid: int | None = None) -> float:
    """Processor time of a process (this one) and its children so far."""
    times = [process.cpu_times() for process in _tree(pid)]
    return sum(each.user + each.system for each in times)


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of a process (this one) and its children."""
    return sum(int(process.memory_info().rss) for process in _tree(pid))


def _tree(pid: int | None) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
