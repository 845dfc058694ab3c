"""`graft jobs`."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import yaml
from rich.table import Table
from rich.text import Text

from graftwork.api.schemas.jobs import JobDetail, JobOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, console, print_json, print_list, say, show_table, state, table, tell
from graftwork.client import jobs as calls
from graftwork.client.events import Event
from graftwork.registry.jobs.events import EventKind
from graftwork.registry.jobs.jobs import ENDED, State

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry

FOLLOW_SECONDS = 0.2
ID_DIGITS = 12
OUTCOME_WIDTH = 72


@click.group()
def jobs() -> None:
    """List jobs, show one, follow or cancel it.

    ID is a job's id, or as much of its beginning as no other job has.

    \b
    Example:
        graft jobs ls
    """


@jobs.command()
@click.option("--limit", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="How many to list.")
@place_option
@json_option
def ls(limit: int, place: Place, as_json: bool) -> None:
    """List jobs, newest first.

    \b
    Example:
        graft jobs ls --limit 10
    """
    found = place(
        lambda registry: [JobOut.of(job) for job in registry.jobs.list(limit=limit)],
        lambda graft: graft(calls.listing(limit=limit)),
    )
    print_list(found, as_json, show_jobs, "There are no jobs.")


@jobs.command()
@click.argument("job_id", metavar="ID")
@place_option
@json_option
def show(job_id: str, place: Place, as_json: bool) -> None:
    """Show what a job is told to do, how far it is, and the end of its log.

    \b
    Example:
        graft jobs show 5f0c2a
    """
    job = _find(place, job_id)
    print_json(job) if as_json else _show(job)


@jobs.command()
@click.argument("job_id", metavar="ID")
@place_option
@json_option
def follow(job_id: str, place: Place, as_json: bool) -> None:
    """Print what happens to a job until it ends.

    \b
    Example:
        graft jobs follow 5f0c2a
    """
    job = _find(place, job_id)
    line = say if as_json else tell

    def here(registry: Registry) -> None:
        for event in _events(registry, job.id):
            line(_told(event))

    def there(graft: Client) -> None:
        for event in graft.events(job.id):
            line(_told(event))

    place(here, there)
    if as_json:
        print_json(_find(place, job.id))


@jobs.command()
@click.argument("job_id", metavar="ID")
@place_option
@json_option
def cancel(job_id: str, place: Place, as_json: bool) -> None:
    """Cancel a job that waits, and stop one that runs.

    \b
    Example:
        graft jobs cancel 5f0c2a
    """
    before = _find(place, job_id)
    job = place(
        lambda registry: JobOut.of(registry.jobs.cancel(before.id)), lambda graft: graft(calls.cancel(before.id))
    )
    if as_json:
        print_json(job)
    elif before.state in ENDED or job.state in (State.SUCCEEDED, State.FAILED):
        say(f"The {job.kind} job {job.id} had ended already: it {_ended(job)}.")
    elif job.state == State.CANCELLED:
        say(f"The {job.kind} job {job.id} is cancelled.")
    else:
        say(f"The {job.kind} job {job.id} runs, and will end within a second.")


def show_jobs(found: list[JobOut]) -> None:
    """A table of jobs."""
    grid = table("id", "kind", "state", "progress", "created", "outcome", right=("progress",))
    for job in found:
        grid.add_row(
            Text(job.id[:ID_DIGITS], style="bold"),
            job.kind,
            state(job.state),
            f"{job.progress:.0%}",
            Text(age(job.created_at), style="dim"),
            _outcome(job),
        )
    show_table(grid)


def _find(place: Place, job_id: str) -> JobDetail:
    """The job whose id begins so."""
    return place(
        lambda registry: JobDetail.read(registry, registry.jobs.find(job_id)),
        lambda graft: graft(calls.detail(job_id)),
    )


def _show(job: JobDetail) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("job", Text(job.id, style="bold"))
    facts.add_row("kind", job.kind)
    facts.add_row("state", state(job.state))
    facts.add_row("progress", f"{job.progress:.0%} (attempt {job.attempt} of {job.max_attempts})")
    for what, moment in (("created", job.created_at), ("started", job.started_at), ("finished", job.finished_at)):
        if moment is not None:
            facts.add_row(what, f"{moment:%Y-%m-%d %H:%M:%S} UTC ({age(moment)})")
    if job.error is not None:
        facts.add_row("error", Text(job.error.message, style="red"))
    facts.add_row("told", Text(_yaml(job.payload)))
    if job.result is not None:
        facts.add_row("result", Text(_yaml(job.result)))
    if job.log:
        facts.add_row("log", Text("\n".join(job.log)))
    console().print(facts)


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).strip()


def _events(registry: Registry, job_id: str) -> Iterator[Event]:
    """What a server streams of a job."""
    position = 0
    while True:
        ended = registry.jobs.get(job_id).state in ENDED
        for event in registry.job_events.after(job_id, position):
            position = event.id
            yield Event(event.id, event.kind, {**event.data, "at": event.happened_at.isoformat()})
        if ended:
            return
        time.sleep(FOLLOW_SECONDS)


def _told(event: Event) -> str:
    return f"{datetime.fromisoformat(event.data['at']):%H:%M:%S} {_happened(event)}"


def _happened(event: Event) -> str:
    match EventKind(event.kind):
        case EventKind.LOG:
            return str(event.data["text"])
        case EventKind.PROGRESS:
            return f"{event.data['stage']} {event.data['progress']:.0%}"
        case EventKind.STATE:
            return f"{event.data['state']} (attempt {event.data['attempt']})"


def _ended(job: JobOut) -> str:
    return "was cancelled" if job.state == State.CANCELLED else job.state


def _outcome(job: JobOut) -> str:
    """What it made, where that is a version; otherwise one line."""
    result = job.result or {}
    if job.error is not None:
        told = job.error.message
    elif "ref" in result:
        return str(result["ref"])
    else:
        told = ", ".join(f"{key} {value}" for key, value in result.items() if not isinstance(value, list | dict))
    return textwrap.shorten(told, OUTCOME_WIDTH, placeholder=" …")
