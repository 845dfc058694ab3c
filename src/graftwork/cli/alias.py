"""`graft alias`."""

from __future__ import annotations

import getpass
from pathlib import Path

import click
from rich.text import Text

from graftwork.api.schemas.aliases import AliasMoveOut, AliasOut
from graftwork.cli.options import home_option, json_option
from graftwork.cli.render import age, digest, print_json, say, show_table, table
from graftwork.registry.aliases import ANY, Expected
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.settings import load_settings

ABSENT = "none"


@click.group()
def alias() -> None:
    """Read and move aliases, the names that versions are served under.

    \b
    Example:
        graft alias set acme/support prod acme/support@v3
    """


@alias.command()
@click.argument("name")
@home_option
@json_option
def ls(name: str, home: Path | None, as_json: bool) -> None:
    """List the aliases of an artifact.

    \b
    Example:
        graft alias ls acme/support
    """
    with Registry.open(load_settings(home=home)) as registry:
        entries = [AliasOut.of(entry) for entry in registry.aliases.get(Name.parse(name)).values()]
        numbers = {version.digest: version.number for version in registry.catalog.versions(Name.parse(name))}
    if as_json:
        print_json(entries)
        return
    if not entries:
        say(f"{name} has no alias.")
        return
    grid = table("alias", "version", "digest", "moved", right=("version",))
    for entry in entries:
        moved = Text(age(entry.updated_at), style="dim")
        grid.add_row(Text(entry.alias, style="bold"), f"v{numbers[entry.digest]}", digest(entry.digest), moved)
    show_table(grid)


@alias.command("set")
@click.argument("name")
@click.argument("alias")
@click.argument("revision")
@click.option("--expected", help=f"Move it only from this revision ('{ABSENT}': only if it does not exist).")
@click.option("--reason", default="", help="Kept in the history.")
@home_option
@json_option
def set_(
    name: str, alias: str, revision: str, expected: str | None, reason: str, home: Path | None, as_json: bool
) -> None:
    """Point ALIAS of NAME at REVISION (v3, another alias, a digest).

    A running server answers new requests with the new version from then on.

    \b
    Example:
        graft alias set acme/support prod v3 --expected v2
    """
    with Registry.open(load_settings(home=home)) as registry:
        version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
        before = _expected(registry, name, expected)
        entry = registry.aliases.set(
            version.name, alias, version.digest, expected=before, actor=_actor(), reason=reason
        )
    print_json(AliasOut.of(entry)) if as_json else say(f"{version.name}@{alias} is {version.ref} now.")


@alias.command()
@click.argument("name")
@click.argument("alias")
@click.option("--reason", default="", help="Kept in the history.")
@home_option
def rm(name: str, alias: str, reason: str, home: Path | None) -> None:
    """Remove ALIAS of NAME; its history stays.

    \b
    Example:
        graft alias rm acme/support beta
    """
    with Registry.open(load_settings(home=home)) as registry:
        registry.aliases.delete(Name.parse(name), alias, actor=_actor(), reason=reason)
    say(f"{name}@{alias} is no more.")


@alias.command()
@click.argument("name")
@click.argument("alias")
@home_option
@json_option
def history(name: str, alias: str, home: Path | None, as_json: bool) -> None:
    """List every move of ALIAS of NAME, oldest first.

    \b
    Example:
        graft alias history acme/support prod
    """
    with Registry.open(load_settings(home=home)) as registry:
        moves = [AliasMoveOut.of(move) for move in registry.aliases.history(Name.parse(name), alias)]
    if as_json:
        print_json(moves)
        return
    grid = table("moved", "from", "to", "by", "reason")
    for move in moves:
        grid.add_row(
            f"{move.moved_at:%Y-%m-%d %H:%M:%S}", digest(move.before), digest(move.after), move.actor, move.reason
        )
    show_table(grid)


def _expected(registry: Registry, name: str, revision: str | None) -> str | Expected | None:
    if revision is None:
        return ANY
    return None if revision == ABSENT else registry.catalog.resolve(Ref.parse(f"{name}@{revision}")).digest


def _actor() -> str:
    """Who moved it, for the history."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
