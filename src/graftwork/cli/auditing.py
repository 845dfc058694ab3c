"""`graft audit`."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from graftwork.api.schemas.audit import AuditOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, print_list, show_table, table
from graftwork.client import tenants as calls
from graftwork.registry.access.audit import ACTIONS


@click.command()
@click.argument("target", required=False)
@click.option("--actor", help="Only what this one did.")
@click.option(
    "--action",
    type=click.Choice([*dict.fromkeys(name for action in ACTIONS for name in (action.partition(".")[0], action))]),
    metavar="ACTION",
    help="Only this, such as alias.move, or only alias.",
)
@click.option("--limit", type=click.IntRange(1), default=30, show_default=True, help="How many to list.")
@click.option("--before", type=click.IntRange(1), metavar="ID", help="Go on from this entry.")
@place_option
@json_option
def audit(
    target: str | None,
    actor: str | None,
    action: str | None,
    limit: int,
    before: int | None,
    place: Place,
    as_json: bool,
) -> None:
    """List who changed what, newest first.

    TARGET is a reference, or the beginning of one: acme is everything of that namespace.

    \b
    Example:
        graft audit acme/support --action alias
    """
    wanted: dict[str, Any] = {"target": target, "actor": actor, "action": action, "limit": limit, "before": before}
    found = place(
        lambda registry: [AuditOut.of(entry) for entry in registry.audit.entries(**wanted)],
        lambda graft: graft(calls.audit(**wanted)),
    )
    print_list(found, as_json, _show, "Nothing was recorded.")


def _show(found: list[AuditOut]) -> None:
    grid = table("id", "when", "who", "action", "target", "details", right=("id",))
    for entry in found:
        details = ", ".join(f"{key} {_short(value)}" for key, value in entry.details.items() if value not in (None, ""))
        when, name = Text(age(entry.happened_at), style="dim"), Text(entry.target, style="bold")
        grid.add_row(str(entry.id), when, entry.actor, entry.action, name, details)
    show_table(grid)


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
