"""vLLM on the CPU, in its own environment, over HTTP: without LoRA for the base, else with a slot for every adapter."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.client import load_seconds, run_trace
from benchmarks.serving.effort import Effort
from benchmarks.serving.family import RANKS, Family
from benchmarks.serving.measured import Figures, resident_bytes, summarise
from benchmarks.serving.process import free_port, server


def measure(
    family: Family, cases: Sequence[Case], root: Path, python: str, *, effort: Effort, threads: int
) -> Iterator[tuple[Case, Figures]]:
    """Each case; one server for the base, and one for all numbers of adapters, which takes over a minute to start."""
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    without: int | None = None
    most = max(case.adapters for case in cases)
    for slots in dict.fromkeys(min(case.adapters, 1) * most for case in cases):
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(family.base)]
        command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
        command += ["--max-model-len", "512", "--max-num-seqs", "32"]
        if slots:
            command += ["--enable-lora", "--max-loras", str(slots), "--max-cpu-loras", str(2 * slots)]
            command += ["--max-lora-rank", str(max(RANKS))]
        with server(command, url, root / f"vllm-{slots}.log", environment, "/health") as pid:
            load_seconds(url, ["base"])
            known: dict[str, float] = {}
            for case in (case for case in cases if bool(case.adapters) == bool(slots)):
                names = [f"{case.targets}-{index}" for index in range(case.adapters)]
                load = _load(url, names, family.adapters[case.targets], known) if case != BASE else None
                yield case, _measure(url, pid, case, names, effort, without, load)
                if case == BASE:
                    without = resident_bytes(pid)


def _measure(
    url: str,
    pid: int,
    case: Case,
    names: Sequence[str],
    effort: Effort,
    without: int | None,
    load: float | None,
) -> Figures:
    def name(adapter: int | None) -> str:
        return "base" if adapter is None else names[adapter]

    runs = effort.runs(case, lambda trace: run_trace(url, pid, trace, name))
    memory = (resident_bytes(pid) - without) / case.adapters if case != BASE and without is not None else None
    return summarise(runs, load=load, memory=memory)


def _load(url: str, names: Sequence[str], folders: Sequence[Path], known: dict[str, float]) -> float:
    """The median seconds that the endpoint takes to load an adapter, and its first token longer than the next.

    `known` has the seconds of those that are loaded, and gets the others'.
    """
    fresh = [name for name in names if name not in known]
    for name, folder in zip(names, folders, strict=False):
        if name in known:
            continue
        started = time.perf_counter()
        told = {"lora_name": name, "lora_path": str(folder)}
        httpx.post(f"{url}/v1/load_lora_adapter", json=told, timeout=600).raise_for_status()
        known[name] = time.perf_counter() - started
    return statistics.median(known[name] for name in fresh) + load_seconds(url, fresh)
