"""A thousand adapters under a Zipf trace against five: tokens per second, and what cold ones wait.

`python -m benchmarks.serving.zipf [--adapters 1000] [--requests 160] [--exponent 1.0]`

All adapters are versions in one registry. Each kind of traffic has an engine of its own with rank rows for 64 adapters,
so that none evicts for another, and gets the same requests by turns, in an order that changes from round to round:

- five: every request to one of five adapters, all resident;
- resident: the popular adapters folded into 60, all resident: what computing as many distinct adapters in a step costs;
- many: each request to an adapter drawn from a Zipf distribution over all; a cold one comes from its file in the page
  cache.

Before that every adapter is asked for once, which is timed by itself: its snapshot is made, its file read and checked.
More requests than the engine has places are in flight, so that it is never idle. One process, random weights; on a
shared machine CPU time and ratios are what counts. A request is cold when its adapter has no rank rows as it arrives.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.swarm import ATTENTION, VOCABULARY, write_adapters, write_base
from graftwork.adapters.engine.generation import Chunk
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.hosting.admission import Admission
from graftwork.adapters.hosting.host import Host
from graftwork.errors import GraftworkError
from graftwork.kernels.dispatch import native_module
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings

PLACES = 32
IN_FLIGHT = 40
SLOTS = 64
RESIDENT = 60
FEW = 5
KINDS = ("five", "resident", "many")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    prompt: list[int]
    tokens: int
    adapter: int


@dataclass(slots=True)
class Run:
    """What came of the requests of one kind."""

    tokens: list[int] = field(default_factory=list)
    """Of each round."""
    cpu_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    distinct: list[int] = field(default_factory=list)
    """Adapters among as many requests in a row as there are places."""
    cold: list[float] = field(default_factory=list)
    """Seconds from arrival to the first token, of requests whose adapter had no rows."""
    warm: list[float] = field(default_factory=list)

    def ratio(self, other: Run, name: str) -> float:
        """The median over the rounds of the other's seconds (`name`) to these, for the same tokens."""
        pairs = zip(getattr(other, name), getattr(self, name), strict=True)
        return float(statistics.median(theirs / ours for theirs, ours in pairs))


def build_requests(rng: random.Random, count: int, adapters: int, exponent: float, popular: list[int]) -> list[Asked]:
    """Ragged requests; the adapters' popularity falls with their place in `popular` to the power of `exponent`."""
    weights = [1 / (place + 1) ** exponent for place in range(adapters)]
    return [
        Asked([rng.randrange(VOCABULARY) for _ in range(rng.randint(8, 48))], rng.randint(8, 32), adapter)
        for adapter in rng.choices(popular, weights, k=count)
    ]


def requests_of(kind: str, trace: list[Asked], popular: list[int]) -> list[Asked]:
    """The same requests with the adapters that a kind of traffic asks for."""
    if kind == "five":
        return [replace(asked, adapter=popular[place % FEW]) for place, asked in enumerate(trace)]
    if kind == "resident":
        place_of = {adapter: place for place, adapter in enumerate(popular)}
        return [replace(asked, adapter=popular[place_of[asked.adapter] % RESIDENT]) for asked in trace]
    return trace


class Trace:
    """Sends requests so that `IN_FLIGHT` of them are in flight."""

    def __init__(self, host: Host, run: Run, digests: list[str]) -> None:
        self._host = host
        self._run = run
        self._digests = digests
        self._places = threading.Semaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._tokens = 0

    def send(self, requests: Sequence[Asked]) -> None:
        """All of them, in order; returns when the last one is answered."""
        cpu, clock = time.process_time(), time.perf_counter()
        for asked in requests:
            self._places.acquire()
            self._ask(asked)
        for _ in range(IN_FLIGHT):
            self._places.acquire()
        self._run.cpu_seconds.append(time.process_time() - cpu)
        self._run.seconds.append(time.perf_counter() - clock)
        self._run.tokens.append(self._tokens)
        adapters = [asked.adapter for asked in requests]
        windows = range(max(1, len(adapters) - PLACES + 1))
        self._run.distinct += [len(set(adapters[start : start + PLACES])) for start in windows]

    def _ask(self, asked: Asked) -> None:
        arrived = time.perf_counter()
        is_cold = not self._host.is_resident(self._digests[asked.adapter])
        pending = self._host.request(f"bench/a{asked.adapter}")
        pending.add_done_callback(lambda ready: self._submit(asked, arrived, is_cold, ready.result()))

    def _submit(self, asked: Asked, arrived: float, is_cold: bool, admission: Admission) -> None:
        sampling = Sampling(max_tokens=asked.tokens, temperature=0, ignore_eos=True)
        generation = admission.engine.submit(Request(asked.prompt, sampling, admission.lease))
        first: list[float] = []

        def hear(event: Chunk | GraftworkError) -> None:
            if not first:
                first.append(time.perf_counter() - arrived)
            ended = isinstance(event, GraftworkError)
            if not isinstance(event, GraftworkError) and event.finish_reason is None:
                return
            with self._lock:
                self._run.failed += ended
                self._tokens += 0 if ended else asked.tokens
                (self._run.cold if is_cold else self._run.warm).append(first[0])
            self._places.release()

        generation.add_listener(hear)


def touch(host: Host, adapters: Sequence[int]) -> list[float]:
    """Ask for every adapter once, one after the other; the milliseconds each took."""
    times = []
    for adapter in adapters:
        started = time.perf_counter()
        host.admit(f"bench/a{adapter}").release()
        times.append(1e3 * (time.perf_counter() - started))
    return times


@click.command(help=__doc__.splitlines()[0])
@click.option("--adapters", "count", type=click.IntRange(RESIDENT), default=1000, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=160, show_default=True, help="of each kind in a round")
@click.option("--rounds", type=click.IntRange(1), default=6, show_default=True)
@click.option("--exponent", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True)
@click.option("--hidden", type=click.IntRange(64), default=2048, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=8, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(
    count: int,
    requests: int,
    rounds: int,
    exponent: float,
    rank: int,
    hidden: int,
    layers: int,
    dtype: str,
    threads: int,
) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    native: Any = native_module()
    native.set_threads(threads)
    rng = random.Random(0)
    popular = rng.sample(range(count), count)
    runs = {kind: Run() for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = write_base(root / "base", hidden=hidden, layers=layers, dtype=getattr(torch, dtype))
        settings = Settings(
            home=root / "home", max_sequences=PLACES, max_model_tokens=256, adapter_rank_rows=SLOTS * rank
        )
        with Registry.open(settings) as registry:
            import_source(registry, str(base), Name.parse("bench/base"))
            digests = [
                import_source(registry, str(adapter), Name.parse(f"bench/a{number}"), base=Ref.parse("bench/base"))
                for number, adapter in enumerate(
                    write_adapters(root, base, [rank] * count, ATTENTION, dtype=torch.bfloat16)
                )
            ]
            hosts = {kind: Host(registry, settings) for kind in KINDS}
            try:
                for host in hosts.values():
                    host.admit("bench/base")
                first_touches = touch(hosts["many"], range(count))
                touch(hosts["five"], popular[:FEW])
                touch(hosts["resident"], popular[:RESIDENT])
                for number in range(rounds + 1):
                    trace = build_requests(rng, requests, count, exponent, popular)
                    for kind in rng.sample(KINDS, len(KINDS)):
                        run = runs[kind] if number else Run()
                        Trace(hosts[kind], run, [version.digest for version in digests]).send(
                            requests_of(kind, trace, popular)
                        )
            finally:
                for host in hosts.values():
                    host.close()
    show(count, runs, first_touches)


def show(count: int, runs: dict[str, Run], first_touches: list[float]) -> None:
    """Print every kind beside the first one."""
    few = runs[KINDS[0]]
    table = Table("", *KINDS, title=f"{count} adapters, {SLOTS} slots, {PLACES} places")

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *cells)

    row("distinct adapters in a step", *(f"{statistics.mean(run.distinct):.1f}" for run in runs.values()))
    for name, unit in (("cpu_seconds", "CPU second"), ("seconds", "second")):
        row(f"tokens per {unit}", *(f"{sum(run.tokens) / sum(getattr(run, name)):.1f}" for run in runs.values()))
        row("  to five, median of rounds", *(f"{run.ratio(few, name):.3f}" for run in runs.values()))
    row("failed requests", *(str(run.failed) for run in runs.values()))
    row("cold requests", *(f"{len(run.cold)} of {len(run.cold) + len(run.warm)}" for run in runs.values()))
    for kind in ("warm", "cold"):
        for name, share in (("median", 0.5), ("p95", 0.95)):
            row(f"first token, {kind}, {name}", *(_quantile(getattr(run, kind), share) for run in runs.values()))
    Console().print(table)
    middle, late = statistics.median(first_touches), statistics.quantiles(first_touches, n=20)[-1]
    Console().print(f"first touch of an adapter, nothing else running: median {middle:.1f} ms, p95 {late:.1f} ms")


def _quantile(seconds: list[float], share: float) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{1e3 * statistics.quantiles(seconds, n=100)[round(share * 100) - 1]:.0f} ms"


if __name__ == "__main__":
    main()
