"""`graft schedules`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import yaml
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from graftwork.api.schemas.jobs import JobOut
from graftwork.api.schemas.schedules import ScheduleChange, ScheduleOut
from graftwork.cli.jobs import show_jobs
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import console, print_json, print_list, say, show_table, table
from graftwork.client import schedules as calls
from graftwork.client.call import Call
from graftwork.errors import InvalidRequest, SourceNotFound
from graftwork.merge.jobs.scheduler import add_schedule, change_schedule, fire_now, note_on
from graftwork.merge.recipe.documents import load_yaml
from graftwork.merge.recipe.problem import first_problem, reason_of
from graftwork.registry.jobs.schedules import Recurrence, Schedule
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

LAST_JOBS = 10


@click.group()
def schedules() -> None:
    """Make jobs again and again, at the times of a cron expression.

    A server or 'graft worker' has to run when the time comes.

    \b
    Example:
        graft schedules create nightly.yaml
    """


@schedules.command()
@click.argument("file", type=click.Path(path_type=Path))
@place_option
@json_option
def create(file: Path, place: Place, as_json: bool) -> None:
    """Add a schedule.

    FILE is YAML: name (NAMESPACE/NAME), cron, kind (of the jobs) and payload (what they are told); and, if they are not
    to be as usual, time_zone (UTC), catch_up (none, one or all; one), overlap (skip, queue or cancel; skip) and
    priority (0).

    \b
    Example:
        graft schedules create nightly.yaml
    """
    _tell(_written(file, place, add_schedule, calls.create), as_json)


@schedules.command()
@click.argument("file", type=click.Path(path_type=Path))
@place_option
@json_option
def update(file: Path, place: Place, as_json: bool) -> None:
    """Change a schedule, which keeps the jobs that it made.

    FILE is like that of 'graft schedules create', and all of it takes the place of what the schedule of that name was.
    From then on its jobs may do what you may do now.

    \b
    Example:
        graft schedules update nightly.yaml
    """
    _tell(_written(file, place, change_schedule, calls.change), as_json)


@schedules.command("ls")
@place_option
@json_option
def ls(place: Place, as_json: bool) -> None:
    """List the schedules.

    \b
    Example:
        graft schedules ls
    """

    def here(registry: Registry) -> list[ScheduleOut]:
        found: list[ScheduleOut] = []
        while page := registry.schedules.list(after=found[-1].name if found else None):
            found += map(ScheduleOut.of, page)
        return found

    found = place(here, lambda graft: list(graft.pages(calls.listing())))
    print_list(found, as_json, _list, "There are no schedules.")


@schedules.command()
@click.argument("name")
@place_option
@json_option
def show(name: str, place: Place, as_json: bool) -> None:
    """Show a schedule and the last jobs that it made.

    \b
    Example:
        graft schedules show acme/nightly
    """
    found, made = place(
        lambda registry: (
            ScheduleOut.of(registry.schedules.get(Name.parse(name))),
            [JobOut.of(job) for job in registry.schedules.jobs(Name.parse(name), LAST_JOBS)],
        ),
        lambda graft: (graft(calls.get(name)), graft(calls.jobs(name, limit=LAST_JOBS))),
    )
    if as_json:
        print_json({"schedule": found, "jobs": made})
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("schedule", Text(found.name, style="bold"))
    facts.add_row("time", f"{found.cron} ({found.time_zone})")
    facts.add_row("next", _next(found))
    facts.add_row("missed times", found.catch_up)
    facts.add_row("overlap", found.overlap)
    facts.add_row("makes", found.kind)
    facts.add_row("of", yaml.safe_dump(found.payload, sort_keys=False).strip())
    console().print(facts)
    if made:
        show_jobs(made)


@schedules.command()
@click.argument("name")
@place_option
@json_option
def pause(name: str, place: Place, as_json: bool) -> None:
    """Make no more jobs until it is resumed.

    \b
    Example:
        graft schedules pause acme/nightly
    """
    paused = place(
        lambda registry: ScheduleOut.of(registry.schedules.pause(Name.parse(name))),
        lambda graft: graft(calls.pause(name)),
    )
    _tell(paused, as_json)


@schedules.command()
@click.argument("name")
@place_option
@json_option
def resume(name: str, place: Place, as_json: bool) -> None:
    """Go on with the next time from now.

    \b
    Example:
        graft schedules resume acme/nightly
    """
    resumed = place(
        lambda registry: ScheduleOut.of(registry.schedules.resume(Name.parse(name), now=registry.schedules.now())),
        lambda graft: graft(calls.resume(name)),
    )
    _tell(resumed, as_json)


@schedules.command()
@click.argument("name")
@place_option
@json_option
def run(name: str, place: Place, as_json: bool) -> None:
    """Make a job now.

    \b
    Example:
        graft schedules run acme/nightly
    """
    job = place(
        lambda registry: JobOut.of(fire_now(registry, Name.parse(name), registry.schedules.now())),
        lambda graft: graft(calls.run(name)),
    )
    if as_json:
        print_json(job)
    else:
        show_jobs([job])


@schedules.command()
@click.argument("name")
@place_option
def rm(name: str, place: Place) -> None:
    """Remove a schedule; the jobs that it made stay.

    \b
    Example:
        graft schedules rm acme/nightly
    """
    place(
        lambda registry: registry.schedules.remove(Name.parse(name)),
        lambda graft: graft(calls.remove(name)),
    )
    say(f"{name} is removed.")


def _written(
    file: Path,
    place: Place,
    write: Callable[[Registry, Settings, Name, Recurrence], Schedule],
    call: Callable[[str, ScheduleChange], Call[ScheduleOut]],
) -> ScheduleOut:
    name, given = _given(file)

    def here(registry: Registry) -> ScheduleOut:
        schedule = write(registry, place.settings, Name.parse(name), given.recurrence)
        return ScheduleOut.of(schedule, note_on(registry, schedule))

    return place(here, lambda graft: graft(call(name, given)))


def _list(found: list[ScheduleOut]) -> None:
    grid = table("name", "kind", "cron", "time zone", "next", "overlap", "catch-up")
    for one in found:
        name = Text(one.name, style="bold")
        grid.add_row(name, one.kind, one.cron, one.time_zone, _next(one), one.overlap, one.catch_up)
    show_table(grid)


def _tell(schedule: ScheduleOut, as_json: bool) -> None:
    if as_json:
        print_json(schedule)
    else:
        say(f"{schedule.name} ({schedule.kind}, {schedule.cron} {schedule.time_zone}) next: {_next(schedule)}")
        if schedule.note is not None:
            say(f"It would fail now: {schedule.note}.")


def _next(schedule: ScheduleOut) -> str:
    return f"{schedule.next_at:%Y-%m-%d %H:%M} UTC" if schedule.enabled else "paused"


def _given(file: Path) -> tuple[str, ScheduleChange]:
    """The name of the schedule that a file describes, and the rest of it."""
    try:
        documents = load_yaml(file.read_text(encoding="utf-8"))
    except OSError:
        raise SourceNotFound(source=str(file), expected="a schedule in YAML") from None
    except ValueError as error:
        raise InvalidRequest(field=str(file), reason=str(error)) from None
    given = documents[0] if len(documents) == 1 else None
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise InvalidRequest(field=str(file), reason="expected a mapping with name, cron, kind and payload")
    try:
        return given.pop("name"), ScheduleChange.model_validate(given)
    except ValidationError as error:
        problem = first_problem(error)
        field = ".".join(map(str, problem["loc"]))
        raise InvalidRequest(field=f"{file}: {field}", reason=reason_of(problem, ScheduleChange)) from None
