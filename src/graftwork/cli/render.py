"""What was asked for, a table or JSON, on stdout; what happens meanwhile, on stderr.

rich is imported for what is drawn on a terminal, and for tables: words in a pipe do without it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from graftwork.api.schemas.versions import VersionOut

T = TypeVar("T")

KIND_STYLES = {
    "base": "bold cyan",
    "checkpoint": "cyan",
    "adapter": "green",
    "task_vector": "magenta",
    "recipe": "yellow",
    "expert_set": "cyan",
    "dataset": "blue",
}
STATE_STYLES = {
    "queued": "yellow",
    "running": "bold blue",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "dim",
}
PIPE_WIDTH = 200
AGES = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def console(*, stderr: bool = False) -> Console:
    """The terminal behind stdout, as it is now; a pipe takes wide lines, so that nothing is folded there."""
    from rich.console import Console

    screen = Console(stderr=stderr, highlight=False)
    if not screen.is_terminal:
        screen.width = PIPE_WIDTH
    return screen


def say(*parts: str | Text) -> None:
    """One line on stderr for the person at the terminal: what was done, or that there is nothing."""
    _print(parts, stderr=True)


def tell(*parts: str | Text) -> None:
    """One line on stdout: what was asked for, where that is no table."""
    _print(parts, stderr=False)


def say_registered(version: VersionOut, *, already_there: bool) -> None:
    """One line about the version that a command made, or found that there was."""
    what = f"{version.kind.replace('_', ' ')}, {count(len(version.files), 'file')}, {size(version.size)}"
    say(f"{version.ref} ({what}) {version.digest[:12]}{' (already there)' if already_there else ''}")


def print_json(value: object) -> None:
    """`value` on stdout: plain values and the API's schemas, as the API would send them."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_list(found: list[T], as_json: bool, show: Callable[[list[T]], None], nothing: str) -> None:
    """What was found as JSON, or as `show` draws it; where that is nothing, the line `nothing` on stderr."""
    if as_json:
        print_json(found)
    elif found:
        show(found)
    else:
        say(nothing)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid


def show_table(grid: Table) -> None:
    """Print a table on stdout."""
    console().print(grid)


def kind(value: str) -> Text:
    """A kind in its colour."""
    return _styled(value.replace("_", " "), KIND_STYLES.get(value, ""))


def state(value: str) -> Text:
    """A job's state in its colour."""
    return _styled(value, STATE_STYLES.get(value, ""))


def digest(value: str | None) -> Text:
    """The first twelve digits, enough to tell one from another."""
    return _styled(value[:12] if value else "-", "dim")


def count(number: int, noun: str) -> str:
    """`1 adapter`, `3 adapters`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(bytes_: int) -> str:
    """Bytes for people: 1.4 GB."""
    amount = float(bytes_)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def age(moment: datetime) -> str:
    """How long ago: `3 hours ago`."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for length, unit in AGES:
        if seconds >= length:
            return f"{count(int(seconds // length), unit)} ago"
    return "just now"


def _print(parts: Sequence[str | Text], *, stderr: bool) -> None:
    if not (sys.stderr if stderr else sys.stdout).isatty():
        click.echo(" ".join(map(str, parts)), err=stderr)
        return
    from rich.text import Text

    line = Text(" ").join(Text(part) if isinstance(part, str) else part for part in parts)
    console(stderr=stderr).print(line, soft_wrap=True)


def _styled(words: str, style: str) -> Text:
    from rich.text import Text

    return Text(words, style=style)


def _plain(schema: Any) -> object:
    """What `json` does not know: one of the API's schemas."""
    return schema.model_dump(mode="json")
