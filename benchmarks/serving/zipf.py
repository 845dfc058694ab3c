"""A thousand adapters under a Zipf trace against five: tokens per second, and what cold ones wait.

`python -m benchmarks.serving.zipf [--adapters 1000] [--requests 192] [--exponent 1.0]`

All adapters are versions in a registry; an engine has rank rows for 64 of them. The same requests go to the engine
twice, by turns: once each to an adapter drawn from a Zipf distribution over all of them, once to one of five. As many
requests as the engine has places are in flight at any time. One process, random weights; on a shared machine CPU time
and ratios are what counts. A request is cold when its adapter has no rank rows as it arrives.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.swarm import ATTENTION, VOCABULARY, write_adapters, write_base
from graftwork.adapters.admission import Admission
from graftwork.adapters.engine.generation import Chunk
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.host import Host
from graftwork.errors import GraftworkError
from graftwork.registry.importer import import_source
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

PLACES = 32
SLOTS = 64
RANK = 16
FEW = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    prompt: list[int]
    tokens: int
    adapter: int


@dataclass(slots=True)
class Run:
    """What came of the requests of one kind."""

    tokens: int = 0
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    failed: int = 0
    cold: list[float] = field(default_factory=list)
    """Seconds from arrival to the first token, of requests whose adapter had no rows."""
    warm: list[float] = field(default_factory=list)


def build_requests(rng: random.Random, count: int, adapters: int, exponent: float) -> list[Asked]:
    """Ragged requests; the adapters' popularity falls with their rank to the power of `exponent`."""
    weights = [1 / (place + 1) ** exponent for place in range(adapters)]
    popular = rng.sample(range(adapters), adapters)
    chosen = rng.choices(popular, weights, k=count)
    return [
        Asked([rng.randrange(VOCABULARY) for _ in range(rng.randint(8, 48))], rng.randint(8, 32), adapter)
        for adapter in chosen
    ]


class Trace:
    """Sends requests so that `PLACES` of them are in flight."""

    def __init__(self, host: Host, run: Run) -> None:
        self._host = host
        self._run = run
        self._places = threading.Semaphore(PLACES)
        self._lock = threading.Lock()

    def send(self, requests: Sequence[Asked]) -> None:
        """All of them, in order; returns when the last one is answered."""
        cpu, clock = time.process_time(), time.perf_counter()
        for asked in requests:
            self._places.acquire()
            self._ask(asked)
        for _ in range(PLACES):
            self._places.acquire()
        self._run.cpu_seconds += time.process_time() - cpu
        self._run.seconds += time.perf_counter() - clock

    def _ask(self, asked: Asked) -> None:
        arrived = time.perf_counter()
        model = f"bench/a{asked.adapter}"
        pending = self._host.request(model)
        is_cold = not pending.done() and not self._host.is_resident(self._digest(model))
        pending.add_done_callback(lambda ready: self._submit(asked, arrived, is_cold, ready.result()))

    def _digest(self, model: str) -> str:
        return DIGESTS[model]

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
                self._run.tokens += 0 if ended else asked.tokens
                (self._run.cold if is_cold else self._run.warm).append(first[0])
            self._places.release()

        generation.add_listener(hear)


DIGESTS: dict[str, str] = {}
"""The version that each model means."""


@click.command(help=__doc__.splitlines()[0])
@click.option("--adapters", "count", type=click.IntRange(FEW), default=1000, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=192, show_default=True, help="of each kind in a round")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--exponent", type=click.FloatRange(0), default=1.0, show_default=True)
@click.option("--hidden", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(
    count: int, requests: int, rounds: int, exponent: float, hidden: int, layers: int, dtype: str, threads: int
) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    rng = random.Random(0)
    many, few = Run(), Run()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = write_base(root / "base", hidden=hidden, layers=layers, dtype=getattr(torch, dtype))
        settings = Settings(
            home=root / "home", max_sequences=PLACES, max_model_tokens=256, adapter_rank_rows=SLOTS * RANK
        )
        with Registry.open(settings) as registry:
            import_source(registry, str(base), Name.parse("bench/base"))
            for number, adapter in enumerate(
                write_adapters(root, base, [RANK] * count, ATTENTION, dtype=torch.bfloat16)
            ):
                name = Name.parse(f"bench/a{number}")
                DIGESTS[str(name)] = import_source(registry, str(adapter), name, base=Ref.parse("bench/base")).digest
            host = Host(registry, settings)
            try:
                host.admit("bench/base")
                Trace(host, Run()).send(build_requests(rng, PLACES, FEW, 0.0))
                for _ in range(rounds):
                    trace = build_requests(rng, requests, count, exponent)
                    Trace(host, many).send(trace)
                    Trace(host, few).send([Asked(each.prompt, each.tokens, i % FEW) for i, each in enumerate(trace)])
            finally:
                host.close()
    show(count, many, few)


def show(count: int, many: Run, few: Run) -> None:
    """Print both kinds and their ratio."""
    table = Table("", f"{FEW} adapters", f"{count} adapters, {SLOTS} slots", "ratio")

    def ratio(name: str, of_few: float, of_many: float, digits: int = 1) -> None:
        table.add_row(name, f"{of_few:.{digits}f}", f"{of_many:.{digits}f}", f"{of_many / of_few:.3f}")

    ratio("tokens per CPU second", few.tokens / few.cpu_seconds, many.tokens / many.cpu_seconds)
    ratio("tokens per second", few.tokens / few.seconds, many.tokens / many.seconds)
    table.add_row("failed requests", str(few.failed), str(many.failed), "")
    table.add_row("cold requests", str(len(few.cold)), f"{len(many.cold)} of {len(many.cold) + len(many.warm)}", "")
    for kind in ("warm", "cold"):
        for name, share in (("median", 0.5), ("p95", 0.95)):
            cells = [_quantile(getattr(run, kind), share) for run in (few, many)]
            table.add_row(f"first token, {kind}, {name}", *cells, "")
    Console().print(table)


def _quantile(seconds: list[float], share: float) -> str:
    if len(seconds) < 2:
        return "-"
    return f"{1e3 * statistics.quantiles(seconds, n=100)[round(share * 100) - 1]:.0f} ms"


if __name__ == "__main__":
    main()
