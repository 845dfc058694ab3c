"""Ours, vLLM on the CPU, PEFT's mixed batch and transformers' continuous batching, on one model in one run.

`python -m benchmarks.serving [--vllm-python PYTHON] [--threads 2] [--hidden 1024] [--layers 8]`

Every system answers the same 32 concurrent ragged requests, greedily, with the same number of threads for its
arithmetic, one system after the other. Ours and vLLM are servers in processes of their own, asked over HTTP by one
client; PEFT and transformers run in this process, without HTTP. Weights are random, in bfloat16 unless told otherwise.
vLLM needs an interpreter of its own (docs/fleet.md); without one it is left out. A system that fails is told at the
end, and does not take the others' figures with it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import httpx
import torch

from benchmarks.serving import continuous, ours, peft_mixed, vllm
from benchmarks.serving.case import BASE, Case
from benchmarks.serving.effort import Effort
from benchmarks.serving.family import EVERY_LAYER, SETS, Family, build_family
from benchmarks.serving.measured import Figures
from benchmarks.serving.table import OURS, show

Measure = Callable[[], Iterator[tuple[Case, Figures]]]
FAILURES = (RuntimeError, OSError, ValueError, httpx.HTTPError, subprocess.SubprocessError)


@click.command(help=__doc__.splitlines()[0])
@click.option("--vllm-python", help="An interpreter that has vLLM.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=64, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=45, show_default=True, help="No round of a case begins after"
)
@click.option("--hidden", type=click.IntRange(128), default=1024, show_default=True, help="A multiple of 128.")
@click.option("--layers", type=click.IntRange(1), default=8, show_default=True)
@click.option("--adapters", "counts", type=click.IntRange(1, 32), multiple=True, default=(1, 8, 32), show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", show_default=True)
@click.option("--only", multiple=True, help="Systems to measure [default: all].")
@click.option(
    "--json", "results_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write figures here."
)
def main(
    vllm_python: str | None,
    threads: int,
    requests: int,
    rounds: int,
    seconds: float,
    hidden: int,
    layers: int,
    counts: tuple[int, ...],
    dtype: str,
    only: tuple[str, ...],
    results_file: Path | None,
) -> None:
    """Measure and print one table."""
    torch.set_num_threads(threads)
    # every number of adapters on every layer, and the most of them on the layers that are usual as well
    cases = [BASE, *(Case(count, EVERY_LAYER) for count in sorted(set(counts)))]
    cases += [Case(max(counts), targets) for targets in SETS if targets != EVERY_LAYER]
    effort = Effort(requests, rounds, seconds)
    results: dict[str, dict[Case, Figures]] = {}
    failed: dict[str, str] = {}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        family = build_family(root, hidden=hidden, layers=layers, adapters=max(counts), dtype=getattr(torch, dtype))
        click.echo(f"{family.parameters / 1e6:.0f}M parameters, {dtype}, {threads} threads", err=True)
        for system, measure in _systems(family, cases, root, vllm_python, effort, threads).items():
            if only and system not in only:
                continue
            results[system] = {}
            try:
                for case, figures in measure():
                    results[system][case] = figures
                    rates = f"{figures.rate:.0f} tokens/s, {figures.cpu_rate:.0f} a CPU second"
                    click.echo(f"{time.perf_counter() - began:4.0f} s  {system}, {case}: {rates}", err=True)
            except FAILURES as error:
                failed[system] = f"{type(error).__name__}: {error}"
    show(results)
    if results_file is not None:
        plain = {system: {str(case): asdict(f) for case, f in figures.items()} for system, figures in results.items()}
        results_file.write_text(json.dumps(plain, indent=2))
    if failed:
        raise click.ClickException("; ".join(f"{system} failed with {error}" for system, error in failed.items()))


def _systems(
    family: Family, cases: Sequence[Case], root: Path, python: str | None, effort: Effort, threads: int
) -> dict[str, Measure]:
    systems: dict[str, Measure] = {OURS: lambda: ours.measure(family, cases, root, effort=effort, threads=threads)}
    if python is not None:
        systems["vllm"] = lambda: vllm.measure(family, cases, root, python, effort=effort, threads=threads)
    systems["peft"] = lambda: peft_mixed.measure(family, cases, effort=effort)
    systems["transformers"] = lambda: continuous.measure(family, cases, effort=effort)
    return systems


if __name__ == "__main__":
    main()
