"""`graft jobs`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime

import click
from rich.text import Text

from graftwork.api.schemas.jobs import JobOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, print_json, say, show_table, state, table
from graftwork.client import jobs as calls
from graftwork.client.events import Event
from graftwork.registry.job_events import EventKind
from graftwork.registry.jobs import ENDED
from graftwork.registry.registry import Registry

FOLLOW_SECONDS = 0.2


@click.command()
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--cancel", is_flag=True, help="Cancel the job ID.")
@click.option("--follow", is_flag=True, help="Print what happens to the job ID until it ends.")
@click.option("--limit", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="How many to list.")
@place_option
@json_option
def jobs(job_id: str | None, cancel: bool, follow: bool, limit: int, place: Place, as_json: bool) -> None:
    """List jobs, show one, follow or cancel it.

    \b
    Example:
        graft jobs 5f0c2a --cancel
    """
    if (cancel or follow) and job_id is None:
        raise click.UsageError(f"--{'cancel' if cancel else 'follow'} needs the ID of a job.")
    if job_id is None:
        found = place(
            lambda registry: [JobOut.of(job) for job in registry.jobs.list(limit=limit)],
            lambda graft: graft(calls.listing(limit=limit)),
        )
    else:
        if follow:
            place(lambda registry: _follow(_events(registry, job_id)), lambda graft: _follow(graft.events(job_id)))
        job = place(
            lambda registry: JobOut.of(registry.jobs.cancel(job_id) if cancel else registry.jobs.get(job_id)),
            lambda graft: graft(calls.cancel(job_id) if cancel else calls.get(job_id)),
        )
        found = [job]
    if as_json:
        print_json(found[0] if job_id is not None else found)
    elif found:
        show_jobs(found)
    else:
        say("There are no jobs.")


def _follow(events: Iterable[Event]) -> None:
    for event in events:
        say(f"{datetime.fromisoformat(event.data['at']):%H:%M:%S} {_told(event)}")


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
    match EventKind(event.kind):
        case EventKind.LOG:
            return str(event.data["text"])
        case EventKind.PROGRESS:
            return f"{event.data['stage']} {event.data['progress']:.0%}"
        case EventKind.STATE:
            return f"{event.data['state']} (attempt {event.data['attempt']})"


def show_jobs(found: list[JobOut]) -> None:
    """A table of jobs."""
    grid = table("id", "kind", "state", "progress", "created", "outcome", right=("progress",))
    for job in found:
        grid.add_row(
            Text(job.id, style="bold"),
            job.kind,
            state(job.state),
            f"{job.progress:.0%}",
            Text(age(job.created_at), style="dim"),
            _outcome(job),
        )
    show_table(grid)


def _outcome(job: JobOut) -> str:
    if job.error is not None:
        return job.error.message
    told = (job.result or {}).items()
    return ", ".join(f"{key} {value}" for key, value in told if not isinstance(value, (list, dict)))
