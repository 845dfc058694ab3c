"""`graft rebuild`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from graftwork.api.schemas.rebuilds import RebuildPlanOut
from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, say, show_table, table
from graftwork.client import marks as calls
from graftwork.registry.access.access import doer

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.merge.rebuild.plan import Rebuild
    from graftwork.registry.registry import Registry
    from graftwork.settings import Settings


@click.command()
@click.argument("ref")
@click.option("--without", "leave_out", is_flag=True, help="Leave it out of everything that was made of it.")
@click.option("--replace-by", metavar="REF", help="Put this version in its place.")
@click.option("--move-aliases", is_flag=True, help="Point the aliases at what was rebuilt.")
@click.option("--dry-run", is_flag=True, help="Say what would be rebuilt, and what cannot be, and do nothing.")
@place_option
@json_option
def rebuild(
    ref: str,
    leave_out: bool,
    replace_by: str | None,
    move_aliases: bool,
    dry_run: bool,
    place: Place,
    as_json: bool,
) -> None:
    """Make everything that was made of a version again, without it.

    Merges and extractions are made again from what was recorded of them, in order, and registered under their names as
    new versions. What cannot be made again is listed with the reason.

    \b
    Example:
        graft rebuild acme/poisoned@v1 --without --move-aliases
    """
    if leave_out == (replace_by is not None):
        raise click.UsageError("Say either --without or --replace-by REF.")
    if dry_run:
        plan = place(
            lambda registry: RebuildPlanOut.of(_find(registry, place.settings, ref, replace_by)),
            lambda graft: graft(calls.plan_rebuild(ref, replace_by=replace_by)),
        )
        print_json(plan) if as_json else _show([step.model_dump() for step in plan.steps], plan.replace_by)
        return
    with progress_bars() as progress:

        def here(registry: Registry) -> Mapping[str, Any]:
            from graftwork.merge.jobs.kinds.rebuild import result_of
            from graftwork.merge.rebuild.carry_out import carry_out

            outcomes = carry_out(
                _find(registry, place.settings, ref, replace_by),
                registry=registry,
                settings=place.settings,
                move_aliases=move_aliases,
                actor=doer(),
                progress=progress,
            )
            return result_of(outcomes)

        def there(graft: Client) -> Mapping[str, Any]:
            planned = graft(calls.plan_rebuild(ref, replace_by=replace_by))
            if not planned.rebuilt:
                return planned.model_dump(include={"rebuilt", "not_rebuilt", "steps"})
            job = graft(calls.rebuild(ref, replace_by=replace_by, move_aliases=move_aliases))
            return waited(graft, job, progress).result or {}

        result = place(here, there)
    if as_json:
        print_json(result)
    else:
        _show(result["steps"], replace_by)


def _find(registry: Registry, settings: Settings, ref: str, replace_by: str | None) -> Rebuild:
    from graftwork.merge.jobs.kinds.rebuild import find_rebuild

    return find_rebuild(registry, settings, ref, replace_by)


def _show(steps: Sequence[Mapping[str, Any]], replace_by: str | None) -> None:
    if not steps:
        say("Nothing was made of it.")
        return
    rebuilt = {ref: ", ".join(step.get("made", ())) or "its rebuild" for step in steps for ref in step["refs"]}
    grid = table("version", "rebuilt", "without", "with another", "notes")
    for step in steps:
        made = step.get("made") or ([step["how"]] if step["how"] and not step["reason"] else [])
        outcome = Text(", ".join(made) or "no", style="green" if made else "bold red")
        moved = [f"{alias['ref']} moved" for alias in step.get("aliases", ()) if alias["moved"]]
        notes = [step["reason"]] if step["reason"] else [*step["notes"], *moved]
        name = Text("\n".join(step["refs"]) or step["digest"][:12], style="bold")
        others = "\n".join(f"{ref} -> {rebuilt.get(ref, replace_by)}" for ref in step["replaced"])
        grid.add_row(name, outcome, "\n".join(step["left_out"]), others, "; ".join(notes))
    show_table(grid)
