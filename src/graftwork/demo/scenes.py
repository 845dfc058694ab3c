"""How the demo shows the requests it sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graftwork.demo.client import Reply
from graftwork.demo.serving import Batch, Swap

SHOWN = 3
"""Replies shown of those before the move, of the first and the last in flight, and of those after it."""
DIGITS = 12

Answers = Mapping[str, str]
"""The right answer to each prompt."""


def show_batch(console: Console, batch: Batch, answers: Answers) -> None:
    """Every reply of a batch, right or wrong."""
    table = _table("model", "prompt", "answer", "X-Graftwork-Version")
    for reply in batch.replies:
        table.add_row(reply.model, reply.prompt, _marked(reply, answers), reply.version[:DIGITS])
    console.print(table)


def show_swap(console: Console, swap: Swap, answers: Answers, versions: Mapping[str, str]) -> None:
    """Some replies around the move, and the count of all; `versions` names each version by its digest."""
    table = _table("request", "sent", "answered", "X-Graftwork-Version", "prompt", "answer")
    for when, replies in (
        ("before", swap.before[-SHOWN:]),
        ("in flight", _first_and_last(swap.during)),
        ("after", swap.after[:SHOWN]),
    ):
        for reply in replies:
            table.add_row(
                when,
                _milliseconds(reply.sent - swap.began),
                _milliseconds(reply.answered - swap.began),
                f"{versions[reply.version]} {reply.version[:DIGITS]}",
                reply.prompt,
                _marked(reply, answers),
            )
        table.add_section()
    console.print(table)
    took = _milliseconds(swap.done - swap.began).removeprefix("+")
    console.print(f"  the move took {took}: the new version was loaded and probed before the alias flipped")
    for digest, name in versions.items():
        theirs = [reply for reply in swap.replies if reply.version == digest]
        right = sum(_is_right(reply, answers) for reply in theirs)
        console.print(f"  {name} answered {len(theirs)} requests, {right} of them rightly")


def _first_and_last(replies: Sequence[Reply]) -> Sequence[Reply]:
    return replies if len(replies) <= 2 * SHOWN else [*replies[:SHOWN], *replies[-SHOWN:]]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in ("sent", "answered") else "left", no_wrap=True)
    return table


def _marked(reply: Reply, answers: Answers) -> str:
    return f"{reply.text} [green]✓[/]" if _is_right(reply, answers) else f"{reply.text} [red]✗[/]"


def _is_right(reply: Reply, answers: Answers) -> bool:
    return reply.text == answers[reply.prompt]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:+.0f} ms"
