"""`graft tags`."""

from __future__ import annotations

import click

from graftwork.api.schemas.tags import TagsOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, say, show_table, table, tell
from graftwork.client import tags as calls
from graftwork.registry.access.access import doer
from graftwork.registry.refs import Name


@click.group()
def tags() -> None:
    """Read and set tags, the words that artifacts are found by.

    \b
    Example:
        graft tags add acme/support nightly
    """


@tags.command()
@click.argument("name", required=False)
@place_option
@json_option
def ls(name: str | None, place: Place, as_json: bool) -> None:
    """List the tags of an artifact, or all tags there are.

    \b
    Example:
        graft tags ls acme/support
    """
    if name is not None:
        _tell(_of(place, name), as_json)
        return
    counts = place(lambda registry: registry.tags.counts(), lambda graft: graft(calls.counts()))
    if as_json:
        print_json(counts)
    elif not counts:
        say("There are no tags.")
    else:
        grid = table("tag", "artifacts", right=("artifacts",))
        for tag, number in counts.items():
            grid.add_row(tag, str(number))
        show_table(grid)


@tags.command()
@click.argument("tag")
@place_option
@json_option
def find(tag: str, place: Place, as_json: bool) -> None:
    """List the artifacts that have a tag.

    \b
    Example:
        graft tags find nightly
    """
    names = place(
        lambda registry: [str(name) for name in registry.tags.artifacts(tag)], lambda graft: graft(calls.find(tag))
    )
    if as_json:
        print_json(names)
    elif names:
        tell("\n".join(names))
    else:
        say(f"Nothing has the tag {tag}.")


@tags.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True)
@place_option
@json_option
def add(name: str, tags: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Add tags to an artifact.

    \b
    Example:
        graft tags add acme/support nightly german
    """
    _tell(_set(place, name, {*_of(place, name).tags, *tags}), as_json)


@tags.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True)
@place_option
@json_option
def rm(name: str, tags: tuple[str, ...], place: Place, as_json: bool) -> None:
    """Take tags from an artifact.

    \b
    Example:
        graft tags rm acme/support nightly
    """
    had = {*_of(place, name).tags}
    if missing := {*tags} - had:
        say(f"{name} did not have the tag {', '.join(sorted(missing))}.")
    _tell(_set(place, name, had - {*tags}), as_json)


def _of(place: Place, name: str) -> TagsOut:
    return place(
        lambda registry: TagsOut(name=name, tags=registry.tags.get(Name.parse(name))),
        lambda graft: graft(calls.get(name)),
    )


def _set(place: Place, name: str, tags: set[str]) -> TagsOut:
    return place(
        lambda registry: TagsOut(name=name, tags=registry.tags.set(Name.parse(name), tags, actor=doer())),
        lambda graft: graft(calls.put(name, tags)),
    )


def _tell(found: TagsOut, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found.tags:
        tell(f"{found.name}: {', '.join(found.tags)}")
    else:
        say(f"{found.name} has no tags.")
