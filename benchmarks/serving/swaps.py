"""Swapping adapters in a running engine: how long one takes, and what requests notice of a thousand.

`python -m benchmarks.serving.swaps [--swaps 1000] [--rate 5] [--hidden 1024] [--layers 8]`

One process, one engine, random weights in fp32, everything interleaved: on a shared machine only ratios mean much.

- Latency: an adapter that nobody has asked for yet, its file in the page cache and nothing of it anywhere else, from
  the request to its first token, beside the same request for an adapter that is resident. The difference is the swap.
- Load: clients ask for an alias of a registry again and again while it moves from version to version, each loaded from
  its file, probed and flipped as `PUT .../aliases/{alias}` does. Stretches without moves, with `--rate` moves a second
  (more than any operator makes), and with one after the other take turns. Every answer is compared, token by token,
  with what transformers generates on the merged weights of each version. Beside the clock, the step thread's own CPU
  time a token is told: what other processes of the machine do is not in it, and neither is waiting for the interpreter.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from benchmarks.serving.swarm import EVERYTHING, VOCABULARY, write_adapters, write_base
from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.engine.sequence import Request, Sampling
from graftwork.adapters.hosting.host import Host
from graftwork.adapters.residency import loader
from graftwork.errors import GraftworkError
from graftwork.kernels.dispatch import native_module
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.version import Version
from graftwork.settings import Settings

VERSIONS = 4
RANK = 16
CLIENTS = 8
TOKENS = 24
RAGGED = 12
"""Answers are of so many lengths up to `TOKENS`: those of one length would all end and begin in the same steps, and no
token would ever wait for another request's prompt."""
PROMPTS = [[11, 500, 7], [1999, 3, 3, 64, 900], [42], [8, 16, 32, 64]]
SPREAD = 0.1
"""Of all weights: answers of different versions differ, and no two logits are close enough for a tie."""
ALIAS = "live"
NAME = Name.parse("bench/skill")
SWAPS_A_STRETCH = 10

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
    cpu_gaps: list[float] = field(default_factory=list)
    """The step thread's CPU seconds between them."""
    first: list[float] = field(default_factory=list)
    """Seconds from asking to the first token."""
    answers: int = 0
    failed: int = 0
    mixed: int = 0
    """Answers that are not, token by token, those of the version that they name."""
    swaps: int = 0
    swap_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Of all stretches."""

    @staticmethod
    def quantile(values: list[float], share: float) -> float:
        """In milliseconds."""
        return 1e3 * float(np.quantile(values, share)) if values else 0.0


def measure_latency(base: Path, adapters: list[Path], rounds: int, *, forget: bool) -> dict[str, Latency]:
    """By kind of time. The engine is stepped by hand, so that nothing else of this process runs.

    forget: let every version be the first with its modules, ranks and names of tensors
    """
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
        if forget:
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
    """Threads that ask for the alias again and again; what they see is noted under the stretch it happens in."""

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
            prompt, tokens = number % len(PROMPTS), TOKENS - 5 * number % RAGGED
            try:
                is_right = self._ask(prompt, tokens)
            except GraftworkError as error:
                click.echo(f"failed: {error}", err=True)
                with self._lock:
                    self.noticed.failed += 1
                continue
            with self._lock:
                self.noticed.answers += 1
                self.noticed.mixed += not is_right

    def _ask(self, prompt: int, tokens: int) -> bool:
        asked = time.perf_counter()
        admission = self._host.admit(f"{NAME}@{ALIAS}")
        sampling = Sampling(max_tokens=tokens, temperature=0, ignore_eos=True)
        generation = admission.engine.submit(Request(PROMPTS[prompt], sampling, admission.lease))
        times: list[tuple[float, float, Noticed]] = []
        # on the thread that steps
        generation.add_listener(lambda _: times.append((time.perf_counter(), time.thread_time(), self.noticed)))
        said = generation.result().token_ids
        with self._lock:
            times[0][2].first.append(times[0][0] - asked)
            for (clock, cpu, _), (next_clock, next_cpu, noticed) in pairwise(times):
                noticed.gaps.append(next_clock - clock)
                noticed.cpu_gaps.append(next_cpu - cpu)
        return said == self._right[admission.digest][prompt][:tokens]


def measure_load(
    host: Host, registry: Registry, versions: list[Version], right: Answers, swaps: int, rate: float
) -> dict[str, Noticed]:
    """What was noticed in stretches without swaps, with `rate` of them a second, and with one after the other."""
    clients = Clients(host, right)
    found = {"quiet": Noticed(), f"{rate:g} a second": Noticed(), "back to back": Noticed()}
    quiet, steady, rushed = found.values()
    moves = count()
    with clients.asking():
        time.sleep(1.0)
        while steady.swaps < swaps:
            for noticed, pause in ((steady, 1 / rate), (quiet, 0.0), (rushed, 0.0)):
                clients.noticed = noticed
                started = time.perf_counter()
                for due in range(0 if noticed is quiet else SWAPS_A_STRETCH):
                    swap(host, registry, versions[next(moves) % len(versions)], noticed)
                    time.sleep(max(0.0, started + (due + 1) * pause - time.perf_counter()))
                if noticed is quiet:
                    time.sleep(SWAPS_A_STRETCH / rate)
                noticed.seconds += time.perf_counter() - started
    return found


def swap(host: Host, registry: Registry, after: Version, noticed: Noticed) -> None:
    """Move the alias to a version, as the API does."""
    before = registry.aliases.get(NAME)[ALIAS].digest
    (engine,) = host.engines().values()
    engine.residency.retire(after.digest)  # from its file, not from what is still there of the last time
    started = time.perf_counter()
    registry.aliases.intend(NAME, ALIAS, after.digest, actor="benchmark")
    host.prepare(after, replaces=before)
    registry.aliases.set(NAME, ALIAS, after.digest, expected=before, actor="benchmark", reason="swap")
    noticed.swap_seconds.append(time.perf_counter() - started)
    noticed.swaps += 1


@click.command(help=__doc__.splitlines()[0])
@click.option("--swaps", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--rate", type=click.FloatRange(0.1), default=5.0, show_default=True, help="swaps a second")
@click.option("--rounds", type=click.IntRange(1), default=60, show_default=True, help="of the latency")
@click.option("--hidden", type=click.IntRange(64), default=1024, show_default=True)
@click.option("--layers", type=click.IntRange(1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
def main(swaps: int, rate: float, rounds: int, hidden: int, layers: int, threads: int) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    native: Any = native_module()
    native.set_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = write_base(root / "base", hidden=hidden, layers=layers, dtype=torch.float32, spread=SPREAD)
        adapters = write_adapters(root, base, [RANK] * VERSIONS, EVERYTHING, dtype=torch.float32, spread=SPREAD)
        latencies = {
            what: measure_latency(base, adapters, rounds, forget=forget)
            for what, forget in (("a new version", False), ("a new layout", True))
        }
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
                host.admit("bench/base")
                noticed = measure_load(host, registry, versions, right, swaps, rate)
            finally:
                host.close()
    show(latencies, noticed)


def show(latencies: dict[str, dict[str, Latency]], noticed: dict[str, Noticed]) -> None:
    """Print what was measured."""
    title = f"rank {RANK} on every linear layer, vocabulary {VOCABULARY}, fp32"
    for what, times in latencies.items():
        table = Table(f"{what}, from page cache", *times, title=title)
        for name in ("load", "first_token", "resident_first_token", "swap"):
            table.add_row(name.replace("_", " "), *(f"{getattr(each, name):.2f} ms" for each in times.values()))
        Console().print(table)
    table = Table("under load", *noticed)
    every = list(noticed.values())
    table.add_row("swaps", *(str(each.swaps) for each in every))
    table.add_row("swaps a second", *(f"{each.swaps / each.seconds:.1f}" for each in every))
    table.add_row("answers", *(str(each.answers) for each in every))
    table.add_row("failed requests", *(str(each.failed) for each in every))
    table.add_row("answers that mix versions", *(str(each.mixed) for each in every))
    medians = (1e3 * statistics.median(each.swap_seconds) if each.swaps else 0.0 for each in every)
    table.add_row("intent, load, probe, flip: median", *(f"{median:.1f} ms" for median in medians))
    for what, column in (("first token", "first"), ("time per token", "gaps"), ("CPU per token", "cpu_gaps")):
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            found = [each.quantile(getattr(each, column), share) for each in every]
            table.add_row(f"{what}, {name}", *(f"{each:.1f} ms ({each / (found[0] or 1):.2f})" for each in found))
    Console().print(table)


if __name__ == "__main__":
    main()
