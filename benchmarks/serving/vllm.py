"""vLLM on the CPU, in its own environment, over HTTP: without LoRA for the base, and with as many slots as adapters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.client import load_seconds, run_trace
from benchmarks.serving.family import RANKS, Family
from benchmarks.serving.measured import Figures, resident_bytes, summarise
from benchmarks.serving.process import free_port, server
from benchmarks.serving.trace import build_trace, warm_up


def measure(
    family: Family, cases: Sequence[Case], root: Path, python: str, *, requests: int, rounds: int, threads: int
) -> Iterator[tuple[Case, Figures]]:
    """Each case, a server of its own for each number of adapters."""
    environment = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    without: int | None = None
    for slots in dict.fromkeys(case.adapters for case in cases):
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
            for case in (case for case in cases if case.adapters == slots):
                names = [f"{case.targets}-{index}" for index in range(slots)]
                load = _load(url, names, family.adapters[case.targets]) if case != BASE else None
                yield case, _measure(url, pid, case, names, requests, rounds, without, load)
                if case == BASE:
                    without = resident_bytes(pid)


def _measure(
    url: str,
    pid: int,
    case: Case,
    names: Sequence[str],
    requests: int,
    rounds: int,
    without: int | None,
    load: float | None,
) -> Figures:
    def name(adapter: int | None) -> str:
        return "base" if adapter is None else names[adapter]

    run_trace(url, pid, warm_up(adapters=case.adapters), name)
    traces = [build_trace(requests, adapters=case.adapters, seed=seed) for seed in range(rounds)]
    runs = [run_trace(url, pid, trace, name) for trace in traces]
    memory = (resident_bytes(pid) - without) / case.adapters if case != BASE and without is not None else None
    return summarise(runs, load=load, memory=memory)


def _load(url: str, names: Sequence[str], folders: Sequence[Path]) -> float:
    """The median seconds that the endpoint takes to load an adapter, and its first token longer than the next."""
    seconds = []
    for name, folder in zip(names, folders, strict=False):
        started = time.perf_counter()
        told = {"lora_name": name, "lora_path": str(folder)}
        httpx.post(f"{url}/v1/load_lora_adapter", json=told, timeout=600).raise_for_status()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) + load_seconds(url, names)
