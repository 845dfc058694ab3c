"""`graft tags`."""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from graftwork.api.schemas.tags import TagsOut
from graftwork.cli.options import home_option, json_option
from graftwork.cli.render import print_json, say, show_table, table
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings


@click.group()
def tags() -> None:
    """Read and set tags, the words that artifacts are found by.

    \b
    Example:
        graft tags add acme/support nightly
    """


@tags.command()
@click.argument("name", required=False)
@home_option
@json_option
def ls(name: str | None, home: Path | None, as_json: bool) -> None:
    """List the tags of an artifact, or all tags there are.

    \b
    Example:
        graft tags ls acme/support
    """
    with Registry.open(load_settings(home=home)) as registry:
        if name is not None:
            found = registry.tags.get(Name.parse(name))
            _tell(name, found, as_json)
            return
        counts = registry.tags.counts()
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
@home_option
@json_option
def find(tag: str, home: Path | None, as_json: bool) -> None:
    """List the artifacts that have a tag.

    \b
    Example:
        graft tags find nightly
    """
    with Registry.open(load_settings(home=home)) as registry:
        names = [str(name) for name in registry.tags.artifacts(tag)]
    if as_json:
        print_json(names)
    else:
        say("\n".join(names) if names else f"Nothing has the tag {tag}.")


@tags.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True)
@home_option
@json_option
def add(name: str, tags: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Add tags to an artifact.

    \b
    Example:
        graft tags add acme/support nightly german
    """
    with Registry.open(load_settings(home=home)) as registry:
        found = registry.tags.get(Name.parse(name))
        _tell(name, registry.tags.set(Name.parse(name), {*found, *tags}, actor=getpass.getuser()), as_json)


@tags.command()
@click.argument("name")
@click.argument("tags", nargs=-1, required=True)
@home_option
@json_option
def rm(name: str, tags: tuple[str, ...], home: Path | None, as_json: bool) -> None:
    """Take tags from an artifact.

    \b
    Example:
        graft tags rm acme/support nightly
    """
    with Registry.open(load_settings(home=home)) as registry:
        found = registry.tags.get(Name.parse(name))
        _tell(name, registry.tags.set(Name.parse(name), {*found} - {*tags}, actor=getpass.getuser()), as_json)


def _tell(name: str, found: list[str], as_json: bool) -> None:
    if as_json:
        print_json(TagsOut(name=name, tags=found))
    else:
        say(f"{name}: {', '.join(found)}" if found else f"{name} has no tags.")
