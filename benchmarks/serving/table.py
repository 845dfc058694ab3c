"""The table of a run: absolute figures of this machine, and ratios, which are what counts."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from benchmarks.serving.case import BASE, Case
from benchmarks.serving.measured import Figures

OURS = "graftwork"

Results = Mapping[str, Mapping[Case, Figures]]
"""Figures by system and case."""


def show(results: Results) -> None:
    """Print one row for every system and case."""
    rates = ("tok/s", "of base", "ours is", "tok/CPU-s", "of base", "ours is")
    table = Table("case", "", *rates, "first p50", "p99", "token p50", "p99", "load", "MB", "rounds")
    for case in {case: None for figures in results.values() for case in figures}:
        for system, figures in results.items():
            if case in figures:
                table.add_row(str(case), system, *_cells(results, system, case))
        table.add_section()
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    console.print("Times in ms. 'ours is': ours over theirs. MB: resident memory for each adapter.")


def _cells(results: Results, system: str, case: Case) -> list[str]:
    figures = results[system][case]
    base, ours = results[system].get(BASE), results.get(OURS, {}).get(case)
    return [
        f"{figures.rate:.0f}",
        f"{figures.rate / base.rate:.2f}" if base else "",
        f"{ours.rate / figures.rate:.2f}x" if ours and system != OURS else "",
        f"{figures.cpu_rate:.0f}",
        f"{figures.cpu_rate / base.cpu_rate:.2f}" if base else "",
        f"{ours.cpu_rate / figures.cpu_rate:.2f}x" if ours and system != OURS else "",
        f"{figures.first_p50:.0f}",
        f"{figures.first_p99:.0f}",
        f"{figures.token_p50:.1f}",
        f"{figures.token_p99:.1f}",
        f"{figures.load * 1e3:.1f}" if figures.load is not None else "",
        f"{figures.memory / 1e6:.1f}" if figures.memory is not None else "",
        str(figures.rounds),
    ]
