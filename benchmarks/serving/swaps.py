"""Swapping adapters in a running engine: how long one takes, and what requests notice of a thousand.

`python -m benchmarks.serving.swaps [--swaps 1000] [--hidden 1024] [--layers 4]`

One process, one engine, random weights in fp32, everything interleaved: on a shared machine only ratios mean much.

- Latency: an adapter that nobody has asked for yet, its file in the page cache and nothing of it anywhere else, from
  the request to its first token, beside the same request for an adapter that is resident. The difference is the swap.
- Load: clients ask for an alias of a registry again and again while it moves from version to version, each loaded from
  its file, probed and flipped as `PUT .../aliases/{alias}` does. Stretches with and without moves take turns. Every
  answer is compared, token by token, with what transformers generates on the merged weights of each version.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.serving.swarm import EVERYTHING, VOCABULARY, write_adapters, write_base
from graftwork.adapters import loader
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.host import Host
from graftwork.errors import GraftworkError
from graftwork.registry.importer import import_source
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Version
from graftwork.settings import Settings

VERSIONS = 4
RANK = 16
CLIENTS = 8
TOKENS = 24
PROMPTS = [[11, 500, 7], [1999, 3, 3, 64, 900], [42], [8, 16, 32, 64]]
SPREAD = 0.1
"""Of all weights: answers of different versions differ, and no two logits are close enough for a tie."""
ALIAS = "live"
NAME = Name.parse("bench/skill")
STRETCHES = 10
PAUSE_SECONDS = 0.05
"""Between a swap and the next one."""

Answers = dict[str, dict[int, list[int]]]
"""Version's digest -> prompt -> tokens."""


@dataclass(slots=True)
class Latency:
    """Milliseconds."""

    load: float
    first_token: float
    resident_first_token: float

    @classmethod
    def of(cls, rounds: list[tuple[float, float, float]], choose: Callable[[list[float]], float]) -> Latency:
        """Each figure by itself: its median over the rounds, or the least of it."""
        return cls(*(choose(list(column)) for column in zip(*rounds, strict=True)))

    @property
    def swap(self) -> float:
        """What the first token of a new version costs beyond that of a resident one."""
        return self.first_token - self.resident_first_token


@dataclass(slots=True)
class Noticed:
    """What the clients saw in the stretches of one kind."""

    gaps: list[float] = field(default_factory=list)
    """Seconds between two tokens of one answer."""
    answers: int = 0
    failed: int = 0
    mixed: int = 0
    """Answers that are not, token by token, those of the version that they name."""
    swaps: int = 0
    swap_seconds: list[float] = field(default_factory=list)

    def gap(self, share: float) -> float:
        """A quantile of the gaps, in milliseconds."""
        return 1e3 * statistics.quantiles(self.gaps, n=1000)[round(share * 1000) - 1]


def measure_latency(base: Path, adapters: list[Path], rounds: int) -> dict[str, Latency]:
    """By kind of time. The engine is stepped by hand, so that nothing else of this process runs."""
    settings = Settings(home=base.parent, max_sequences=4, max_model_tokens=256, adapter_rank_rows=4 * RANK)
    engine = Engine.load(base, settings)
    sampling = Sampling(max_tokens=1, temperature=0)

    def ask(folder: Path) -> tuple[list[float], list[float]]:
        """Clock and CPU milliseconds until it is loaded, and until its first token."""
        began = _now()
        lease = engine.residency.acquire(folder.name, folder)
        loaded = _now()
        generation = engine.submit(Request(PROMPTS[0], sampling, lease))
        while not generation.done:
            engine.step()
        done = _now()
        return [1e3 * (b - a) for a, b in zip(began, loaded, strict=True)], [
            1e3 * (b - a) for a, b in zip(began, done, strict=True)
        ]

    wall: list[tuple[float, float, float]] = []
    cpu: list[tuple[float, float, float]] = []
    for number in range(rounds + 3):
        folder = adapters[number % len(adapters)]
        engine.residency.retire(folder.name)
        loader.forget_layouts()
        for file in folder.iterdir():
            file.read_bytes()  # into the page cache
        load, first = ask(folder)
        _, resident = ask(folder)
        wall.append((load[0], first[0], resident[0]))
        cpu.append((load[1], first[1], resident[1]))
    engine.close()
    return {
        "CPU time, median": Latency.of(cpu[3:], statistics.median),
        "clock, median": Latency.of(wall[3:], statistics.median),
        "clock, least": Latency.of(wall[3:], min),
    }


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@torch.inference_mode()
def right_answers(base: Path, versions: list[tuple[Version, Path]]) -> Answers:
    """What transformers and PEFT say, without this project."""
    answers: Answers = {}
    for version, folder in versions:
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload().eval()
        answers[version.digest] = {}
        for number, prompt in enumerate(PROMPTS):
            ids = torch.tensor([prompt])
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            answers[version.digest][number] = output[0, len(prompt) :].tolist()
    return answers


class Clients:
    """Threads that ask for the alias again and again; what they see is noted under the stretch they end in."""

    def __init__(self, host: Host, right: Answers) -> None:
        self.noticed = Noticed()
        self._host = host
        self._right = right
        self._stop = threading.Event()
        self._lock = threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within the block, all of them ask."""
        threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        yield
        self._stop.set()
        for thread in threads:
            thread.join()

    def _ask_on(self, number: int) -> None:
        while not self._stop.is_set():
            number += 1
            prompt = number % len(PROMPTS)
            try:
                gaps, is_right = self._ask(prompt)
            except GraftworkError as error:
                click.echo(f"failed: {error}", err=True)
                with self._lock:
                    self.noticed.failed += 1
                continue
            with self._lock:
                self.noticed.answers += 1
                self.noticed.mixed += not is_right
                self.noticed.gaps += gaps

    def _ask(self, prompt: int) -> tuple[list[float], bool]:
        admission = self._host.admit(f"{NAME}@{ALIAS}")
        sampling = Sampling(max_tokens=TOKENS, temperature=0, ignore_eos=True)
        generation = admission.engine.submit(Request(PROMPTS[prompt], sampling, admission.lease))
        times: list[float] = []
        generation.add_listener(lambda _: times.append(time.perf_counter()))
        tokens = generation.result().token_ids
        gaps = [after - before for before, after in pairwise(times)]
        return gaps, tokens == self._right[admission.digest][prompt]


def measure_load(host: Host, registry: Registry, versions: list[Version], right: Answers, swaps: int) -> list[Noticed]:
    """Quiet and swapping stretches by turns; what was noticed in the quiet ones, and in the others."""
    clients = Clients(host, right)
    quiet, swapping = Noticed(), Noticed()
    each = -(-swaps // STRETCHES)
    with clients.asking():
        time.sleep(1.0)
        for _ in range(STRETCHES):
            clients.noticed = swapping
            started = time.perf_counter()
            for _ in range(each):
                swap(host, registry, versions, swapping)
            spent = time.perf_counter() - started
            clients.noticed = quiet
            time.sleep(spent)
    return [quiet, swapping]


def swap(host: Host, registry: Registry, versions: list[Version], noticed: Noticed) -> None:
    """Move the alias to the next version, as the API does, and leave the clients time for a few answers."""
    before = registry.aliases.get(NAME)[ALIAS].digest
    after = versions[noticed.swaps % len(versions)]
    engine = host.admit("bench/base").engine
    engine.residency.retire(after.digest)  # from its file, not from what is still there of the last time
    started = time.perf_counter()
    registry.aliases.intend(NAME, ALIAS, after.digest, actor="benchmark")
    host.prepare(after, replaces=before)
    registry.aliases.set(NAME, ALIAS, after.digest, expected=before, actor="benchmark", reason="swap")
    noticed.swap_seconds.append(time.perf_counter() - started)
    noticed.swaps += 1
    time.sleep(PAUSE_SECONDS)


@click.command(help=__doc__.splitlines()[0])
@click.option("--swaps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=60, show_default=True, help="of the latency")
@click.option("--hidden", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(swaps: int, rounds: int, hidden: int, layers: int, threads: int) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = write_base(root / "base", hidden=hidden, layers=layers, dtype=torch.float32, spread=SPREAD)
        adapters = write_adapters(root, base, [RANK] * VERSIONS, EVERYTHING, dtype=torch.float32, spread=SPREAD)
        latencies = measure_latency(base, adapters, rounds)
        settings = Settings(
            home=root / "home", max_sequences=CLIENTS + 1, max_model_tokens=256, adapter_rank_rows=VERSIONS * RANK
        )
        with Registry.open(settings) as registry:
            import_source(registry, str(base), Name.parse("bench/base"))
            on = Ref.parse("bench/base")
            versions = [import_source(registry, str(each), NAME, base=on, aliases=[ALIAS]) for each in adapters]
            right = right_answers(base, list(zip(versions, adapters, strict=True)))
            host = Host(registry, settings)
            try:
                quiet, swapping = measure_load(host, registry, versions, right, swaps)
            finally:
                host.close()
    show(latencies, quiet, swapping)


def show(latencies: dict[str, Latency], quiet: Noticed, swapping: Noticed) -> None:
    """Print what was measured."""
    title = f"rank {RANK} on every linear layer, vocabulary {VOCABULARY}, fp32"
    table = Table("a new version, from page cache", *latencies, title=title)
    for name in ("load", "first_token", "resident_first_token", "swap"):
        table.add_row(name.replace("_", " "), *(f"{getattr(each, name):.2f} ms" for each in latencies.values()))
    Console().print(table)
    table = Table("under load", "quiet", "swapping", "ratio")
    table.add_row("swaps", "0", str(swapping.swaps), "")
    table.add_row("answers", str(quiet.answers), str(swapping.answers), "")
    table.add_row("failed requests", str(quiet.failed), str(swapping.failed), "")
    table.add_row("answers that mix versions", str(quiet.mixed), str(swapping.mixed), "")
    table.add_row(
        "intent, load, probe, flip: median", "", f"{1e3 * statistics.median(swapping.swap_seconds):.1f} ms", ""
    )
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        before, during = quiet.gap(share), swapping.gap(share)
        table.add_row(f"time per token, {name}", f"{before:.1f} ms", f"{during:.1f} ms", f"{during / before:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
