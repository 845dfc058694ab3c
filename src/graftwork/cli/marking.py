"""`graft quarantine`, `graft lift`, `graft withdraw` and `graft marks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.text import Text

from graftwork.api.schemas.marks import MarkOut, QuarantineOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, count, print_json, print_list, say, show_table, table
from graftwork.client import artifacts
from graftwork.client import marks as calls
from graftwork.registry.access.access import doer
from graftwork.registry.versions.marks import Mark

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry


@click.command()
@click.argument("ref")
@click.option("--reason", required=True, help="What is wrong with it; whoever asks for it is told.")
@place_option
@json_option
def quarantine(ref: str, reason: str, place: Place, as_json: bool) -> None:
    """Stop a version, and all that was made of it, from being served and merged.

    A running server stops within a second. Aliases stay where they are, and are listed: move them to versions that are
    in order, or let 'graft rebuild' make such versions.

    \b
    Example:
        graft quarantine acme/poisoned@v1 --reason "trained on a poisoned dataset"
    """

    def here(registry: Registry) -> QuarantineOut:
        version = registry.catalog.resolve(ref)
        marked = registry.marks.quarantine(version, actor=doer(), reason=reason)
        return QuarantineOut.of(marked, registry.marks.pointers(version))

    done = place(here, lambda graft: graft(calls.quarantine(ref, reason=reason)))
    if as_json:
        print_json(done)
        return
    _show(done.marked)
    if done.aliases:
        shown = ", ".join(f"{pointer.name}@{pointer.alias}" for pointer in done.aliases)
        say(f"Nothing is served under {shown} until moved.")


@click.command()
@click.argument("ref")
@click.option("--reason", default="", help="Kept in the audit log.")
@place_option
@json_option
def lift(ref: str, reason: str, place: Place, as_json: bool) -> None:
    """End the quarantine of a version and of what was made of it.

    What is quarantined because of another version, too, stays quarantined.

    \b
    Example:
        graft lift acme/support@v3 --reason "the report was wrong"
    """

    def here(registry: Registry) -> list[MarkOut]:
        version = registry.catalog.resolve(ref)
        cleared = registry.marks.lift(version, actor=doer(), reason=reason)
        return [MarkOut.of(entry) for entry in cleared]

    found = place(here, lambda graft: graft(calls.lift(ref, reason=reason)))
    if as_json:
        print_json(found)
    else:
        names = ", ".join(entry.ref or entry.digest[:12] for entry in found)
        say(
            f"{count(len(found), 'version')} may be used again: {names}." if found else "Nothing may be used again yet."
        )


@click.command()
@click.argument("ref")
@click.option("--reason", default="", help="Whoever asks for it is told.")
@place_option
@json_option
def withdraw(ref: str, reason: str, place: Place, as_json: bool) -> None:
    """Delete a version: its files go with a later 'graft gc'.

    It stays in the lineage. While an alias or another version refers to it, it cannot be deleted.

    \b
    Example:
        graft withdraw acme/poisoned@v1 --reason "trained on a poisoned dataset"
    """

    def here(registry: Registry) -> tuple[str, list[MarkOut]]:
        version = registry.catalog.resolve(ref)
        registry.marks.withdraw(version, actor=doer(), reason=reason)
        return version.ref, [MarkOut.of(entry) for entry in registry.marks.of(version)]

    def there(graft: Client) -> tuple[str, list[MarkOut]]:
        version = graft(artifacts.version(ref))
        return version.ref, graft(calls.withdraw(version.ref, reason=reason))

    withdrawn, marked = place(here, there)
    print_json(marked) if as_json else say(f"{withdrawn} is withdrawn.")


@click.command()
@click.option("--mark", type=click.Choice([mark.value for mark in Mark]), help="Only these.")
@click.option("--by-hand", is_flag=True, help="Without what a quarantine spread to.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to list.")
@place_option
@json_option
def marks(mark: str | None, by_hand: bool, limit: int, place: Place, as_json: bool) -> None:
    """List what is quarantined and what was withdrawn.

    \b
    Example:
        graft marks --mark quarantined
    """

    def here(registry: Registry) -> list[MarkOut]:
        entries = registry.marks.entries(None if mark is None else Mark(mark), limit, by_hand=by_hand)
        return [MarkOut.of(entry) for entry in entries]

    found = place(here, lambda graft: graft(calls.listing(mark=mark, by_hand=by_hand, limit=limit)))
    print_list(found, as_json, _show, "Nothing is marked.")


def _show(found: Sequence[MarkOut]) -> None:
    grid = table("version", "mark", "because of", "reason", "by", "when")
    for entry in found:
        because = "" if entry.cause_digest is None else entry.cause or entry.cause_digest[:12]
        name = Text(entry.ref or f"private ({entry.digest[:12]})", style="bold")
        when = Text(age(entry.marked_at), style="dim")
        grid.add_row(name, Text(entry.mark, style="red"), because, entry.reason, entry.actor, when)
    show_table(grid)
