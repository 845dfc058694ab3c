"""`graft sweep`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option, parse_bytes
from graftwork.cli.place import Place, local_user, place_option, registry_of
from graftwork.cli.render import count, print_json, say, show_table, table, tell
from graftwork.client import jobs as calls
from graftwork.merge.sweep.chart import draw
from graftwork.merge.sweep.evaluation import Command
from graftwork.merge.sweep.run import Objective, Outcome, Report, run_sweep
from graftwork.merge.sweep.sweep import load_request, load_sweep
from graftwork.settings import Settings

CHART = "sweep.svg"


@click.command()
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The folder to work in [default: SWEEP].")
@click.option("--keep", is_flag=True, help="Keep every merged folder, not only the best.")
@click.option("--memory", callback=parse_bytes, metavar="SIZE", help="What a merge may hold in buffers, such as 256MB.")
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="How many threads to use [default: one a processor]."
)
@click.option("--name", help="Through a server: register the best point as NAMESPACE/NAME.")
@click.option("--alias", "aliases", multiple=True, help="With --name: point this alias at it; may be repeated.")
@place_option
@json_option
def sweep(
    sweep_file: Path,
    out: Path | None,
    keep: bool,
    memory: int | None,
    threads: int | None,
    name: str | None,
    aliases: tuple[str, ...],
    place: Place,
    as_json: bool,
) -> None:
    """Search a grid of recipe parameters for the best merge.

    SWEEP is YAML: `recipe` (a recipe or the path of one), `grid` (dotted paths in the recipe, each with its values),
    and `evaluate` (a command that is run on each merged folder and prints its metrics as JSON). All of it, like the
    paths in the recipe, is relative to the current folder. Without --out the work is done in a folder named like the
    file, without its ending. The same command again goes on where the last one ended, and tries failed points anew.

    A server runs no commands: for it, `evaluate` names a dataset of the registry or an evaluator of its operator's,
    `dataset` or `evaluator` in the place of `command`, and the best point becomes a version of --name.

    \b
    For example, sweep.yaml holds:
        recipe: ties.yaml
        grid:
          parameters.lambda: {from: 0.2, to: 1.0, step: 0.2}
          parameters.density: [0.1, 0.2, 0.5]
        evaluate:
          command: [python, eval.py, "{model}"]
          metric: accuracy
          goal: maximise
          timeout: 600

    \b
    Example:
        graft sweep sweep.yaml --out best-ties
    """
    limits = {"memory": memory, "threads": threads}
    given: dict[str, Any] = {option: value for option, value in limits.items() if value is not None}
    if not place.remote:
        if name or aliases:
            raise click.UsageError("--name and --alias are for a sweep through a server: name one with --server.")
        with local_user():
            _here(sweep_file, out, keep, replace(place.settings, **given), as_json)
        return
    for option, is_given in {"--out": out, "--keep": keep, **{f"--{key}": True for key in given}}.items():
        if is_given:
            place.refuse(f"{option} does")
    if name is None:
        raise click.UsageError("give --name, which the best point is to become a version of.")
    _there(sweep_file, name, aliases, place, as_json)


def _there(file: Path, name: str, aliases: tuple[str, ...], place: Place, as_json: bool) -> None:
    from graftwork.client import Client

    wanted = load_request(file)
    with progress_bars() as progress, Client(place.settings.url, place.settings.token) as graft:
        job = waited(graft, graft(calls.sweep({**wanted, "name": name, "aliases": list(aliases)})), progress)
    result = job.result or {}
    if as_json:
        print_json(result)
        return
    values = ", ".join(f"{path}={value}" for path, value in result["values"].items())
    best = f"{result['ref']} is the best of {count(result['points'], 'point')}"
    tell(f"{best}, with {result['metric']} {result['value']:.6g}: {values}")
    if result["failed"]:
        say(f"{count(result['failed'], 'point')} failed; 'graft jobs show {job.id[:12]}' tells why.")


def _here(sweep_file: Path, out: Path | None, keep: bool, settings: Settings, as_json: bool) -> None:
    planned = load_sweep(sweep_file)
    folder = out if out is not None else Path(sweep_file.stem)
    objective = Objective(planned.judge.metric, planned.judge.goal)
    named = {reference for point in planned.points for reference in point.recipe.references}
    try:
        with registry_of(named, settings) as registry, progress_bars() as progress:
            report = run_sweep(
                planned.points,
                Command(planned.judge.command, planned.judge.timeout),
                objective,
                out=folder,
                settings=settings,
                registry=registry,
                keep_all=keep,
                progress=progress,
            )
    except KeyboardInterrupt:
        say(f"{folder} has what was found so far; the same command goes on with it.")
        raise
    chart = folder / CHART
    chart.write_text(draw(report, objective.metric, objective.goal), encoding="utf-8")
    if as_json:
        print_json(_plain(report, objective, folder))
    else:
        _show(report, objective, folder)
    if report.failed:
        raise click.ClickException(_what_failed(report))


def _show(report: Report, objective: Objective, folder: Path) -> None:
    paths = list(report.outcomes[0].point.values)
    others = [name for name in _metrics(report) if name != objective.metric]
    grid = table(*paths, objective.metric, *others, "s", "", right=[*paths, objective.metric, *others, "s"])
    for outcome in report.outcomes:
        result = outcome.result
        note = result.error or _note(report, outcome)
        style = "red" if result.error else "bold green" if outcome is report.best else ""
        numbers = [_number(result.metrics.get(name)) for name in (objective.metric, *others)]
        values = [str(value) for value in outcome.point.values.values()]
        grid.add_row(*values, *numbers, f"{result.seconds:.1f}", Text(note), style=style)
    show_table(grid)
    if report.best is not None:
        say(
            f"{folder / 'best'} is the best of {count(len(report.outcomes), 'point')}; {folder / CHART} shows them all."
        )


def _note(report: Report, outcome: Outcome) -> str:
    marks = ("best" if outcome is report.best else "", "from an earlier run" if outcome.taken_over else "")
    return ", ".join(filter(None, marks))


def _plain(report: Report, objective: Objective, folder: Path) -> dict[str, Any]:
    return {
        "metric": objective.metric,
        "goal": objective.goal,
        "chart": str(folder / CHART),
        "best": _point(report, report.best) if report.best is not None else None,
        "points": [_point(report, outcome) for outcome in report.outcomes],
    }


def _point(report: Report, outcome: Outcome) -> dict[str, Any]:
    result = outcome.result
    folder = report.folders.get(result.key)
    return {
        "values": dict(outcome.point.values),
        "value": outcome.value,
        "metrics": dict(result.metrics),
        "error": result.error,
        "seconds": result.seconds,
        "taken_over": outcome.taken_over,
        "recipe": result.recipe,
        "folder": str(folder) if folder is not None else None,
    }


def _what_failed(report: Report) -> str:
    first = report.failed[0]
    told = f"{len(report.failed)} of {count(len(report.outcomes), 'point')} failed; the first, {first.point.label}: "
    return f"{told}{first.result.error} The same command tries them again."


def _metrics(report: Report) -> list[str]:
    return list(dict.fromkeys(name for outcome in report.outcomes for name in outcome.result.metrics))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
