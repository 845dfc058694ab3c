"""`graft gc`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from graftwork.cli.options import json_option
from graftwork.cli.place import local_option
from graftwork.cli.render import count, print_json, say, show_table, size, table
from graftwork.settings import load_settings

if TYPE_CHECKING:
    from graftwork.registry.gc import Report


@click.command()
@click.option("--apply", is_flag=True, help="Collect, instead of saying what would go.")
@click.option(
    "--grace",
    type=click.IntRange(0),
    metavar="SECONDS",
    help="How long bytes stay that nobody uses, twice [default: GRAFTWORK_GC_GRACE_SECONDS, a day].",
)
@local_option
@json_option
def gc(apply: bool, grace: int | None, home: Path | None, as_json: bool) -> None:
    """Delete bytes that nothing refers to any more.

    What no version, upload or draft refers to and nobody used for the grace period is condemned, and what stayed
    condemned for another one is deleted: the files of versions that were withdrawn, and what interrupted imports left.
    So are uploads in parts that nobody goes on with.
    Without --apply nothing is changed.

    \b
    Example:
        graft gc --apply
    """
    from graftwork.registry.gc import collect
    from graftwork.registry.registry import Registry

    settings = load_settings(home=home)
    with Registry.open(settings) as registry:
        seconds = settings.gc_grace_seconds if grace is None else grace
        report = collect(registry, apply=apply, grace=seconds, idle=settings.upload_seconds)
    if as_json:
        print_json({**asdict(report), "freed": report.freed})
    else:
        _show(report)


def _show(report: Report) -> None:
    grid = table("what", "name", "size", "why", right=("size",))
    for step, tally in report.steps.items():
        for finding in tally.findings:
            grid.add_row(step, Text(finding.name, overflow="fold"), size(finding.size), Text(finding.why, style="dim"))
    if any(tally.count for tally in report.steps.values()):
        show_table(grid)
    done = "Freed" if report.applied else "Would free"
    condemned = count(report.condemned.count, "blob")
    say(f"{done} {size(report.freed)}; {condemned} ({size(report.condemned.size)}) {_next(report)}.")


def _next(report: Report) -> str:
    if not report.applied:
        return "would be condemned; --apply does it"
    if not report.condemned.count:
        return "condemned"
    due = datetime.now(UTC) + timedelta(seconds=report.grace)
    return f"condemned, to be deleted by the first 'graft gc --apply' after {due:%Y-%m-%d %H:%M} UTC"
