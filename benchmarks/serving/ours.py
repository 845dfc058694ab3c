"""Ours: `graft serve` with the embedded engine, over HTTP."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.client import load_seconds, run_trace
from benchmarks.serving.effort import Answer, Effort
from benchmarks.serving.family import Family
from benchmarks.serving.measured import Figures, resident_bytes, summarise
from benchmarks.serving.process import free_port, server
from benchmarks.serving.trace import warm_up
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings


def measure(
    family: Family, cases: Sequence[Case], root: Path, *, effort: Effort, threads: int
) -> Iterator[tuple[Case, Figures]]:
    """All cases on one server, a round of each in turn."""
    home = root / "home"
    with Registry.open(Settings(home=home)) as registry:
        import_source(registry, str(family.base), Name.parse("bench/base"))
        for targets, folders in family.adapters.items():
            for index, folder in enumerate(folders):
                name = Name.parse(_name(targets, index))
                import_source(registry, str(folder), name, base=Ref.parse("bench/base"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "graftwork.cli", "serve", "--port", str(port), "--home", str(home)]
    environment = {"GRAFTWORK_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with server(command, url, root / "ours.log", environment, "/healthz") as pid:
        load_seconds(url, ["bench/base"])
        loads: dict[Case, float | None] = {}
        memories: dict[Case, float | None] = {}
        ways: dict[Case, Answer] = {}
        for case in cases:
            before = resident_bytes(pid)
            names = [_name(case.targets, index) for index in range(case.adapters)]
            loads[case] = load_seconds(url, names) if case != BASE else None

            def called(adapter: int | None, names: Sequence[str] = names) -> str:
                return "bench/base" if adapter is None else names[adapter]

            ways[case] = partial(run_trace, url, pid, name=called)
            ways[case](warm_up(adapters=case.adapters))
            memories[case] = (resident_bytes(pid) - before) / case.adapters if case != BASE else None
        for case, runs in effort.alternating(ways).items():
            yield case, summarise(runs, load=loads[case], memory=memories[case])


def _name(targets: str, index: int) -> str:
    return f"bench/{targets.replace(', ', '').replace(' ', '-')}-{index}"
