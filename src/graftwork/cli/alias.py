"""`graft alias`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from graftwork.api.schemas.aliases import AliasMoveOut, AliasOut
from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, digest, print_json, say, show_table, table
from graftwork.client import aliases as calls
from graftwork.client import artifacts
from graftwork.errors import InvalidRequest
from graftwork.registry.access.access import doer
from graftwork.registry.catalog.aliases import ANY
from graftwork.registry.refs import Name, Ref

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry

ABSENT = "none"


@click.group()
def alias() -> None:
    """Read and move aliases, the names that versions are served under.

    \b
    Example:
        graft alias set acme/support prod v3
    """


@alias.command()
@click.argument("name")
@place_option
@json_option
def ls(name: str, place: Place, as_json: bool) -> None:
    """List the aliases of an artifact.

    \b
    Example:
        graft alias ls acme/support
    """
    entries, versions = place(
        lambda registry: (
            [AliasOut.of(entry) for entry in registry.aliases.get(Name.parse(name)).values()],
            [VersionOut.of(version) for version in registry.catalog.versions(Name.parse(name))],
        ),
        lambda graft: (graft(calls.listing(name)), graft(artifacts.versions(name))),
    )
    numbers = {version.digest: version.number for version in versions}
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
@place_option
@json_option
def set_(name: str, alias: str, revision: str, expected: str | None, reason: str, place: Place, as_json: bool) -> None:
    """Point ALIAS of NAME at REVISION (v3, another alias, a digest, or NAME@ and one of them).

    A running server answers new requests with the new version from then on.

    \b
    Example:
        graft alias set acme/support prod v3 --expected v2
    """

    revision = _revision(name, revision, "REVISION")

    def here(registry: Registry) -> tuple[str, str, AliasOut]:
        version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
        before = _expected(name, expected, lambda ref: registry.catalog.resolve(ref).digest, ANY)
        entry = registry.aliases.set(version.name, alias, version.digest, expected=before, actor=doer(), reason=reason)
        return str(version.name), version.ref, AliasOut.of(entry)

    def there(graft: Client) -> tuple[str, str, AliasOut]:
        version = graft(artifacts.version(f"{name}@{revision}"))
        before = _expected(name, expected, lambda ref: graft(artifacts.version(ref)).digest, calls.ANYWHERE)
        moved = calls.move(version.name, alias, version.digest, expected=before, reason=reason)
        return version.name, version.ref, graft(moved)

    artifact, ref, entry = place(here, there)
    print_json(entry) if as_json else say(f"{artifact}@{alias} is {ref} now.")


@alias.command()
@click.argument("name")
@click.argument("alias")
@click.option("--reason", default="", help="Kept in the history.")
@place_option
@json_option
def rm(name: str, alias: str, reason: str, place: Place, as_json: bool) -> None:
    """Remove ALIAS of NAME; its history stays.

    \b
    Example:
        graft alias rm acme/support beta
    """
    place(
        lambda registry: registry.aliases.delete(Name.parse(name), alias, actor=doer(), reason=reason),
        lambda graft: graft(calls.remove(name, alias, reason=reason)),
    )
    print_json({"name": name, "alias": alias}) if as_json else say(f"{name}@{alias} is no more.")


@alias.command()
@click.argument("name")
@click.argument("alias")
@place_option
@json_option
def history(name: str, alias: str, place: Place, as_json: bool) -> None:
    """List every move of ALIAS of NAME, oldest first.

    \b
    Example:
        graft alias history acme/support prod
    """
    moves = place(
        lambda registry: [AliasMoveOut.of(move) for move in registry.aliases.history(Name.parse(name), alias)],
        lambda graft: graft(calls.history(name, alias)),
    )
    if as_json:
        print_json(moves)
        return
    grid = table("moved", "from", "to", "by", "reason")
    for move in moves:
        before, after = _version(move.before_ref, move.before), _version(move.after_ref, move.after)
        grid.add_row(f"{move.moved_at:%Y-%m-%d %H:%M:%S}", before, after, move.actor, move.reason)
    show_table(grid)


def _version(ref: str | None, content: str | None) -> Text:
    number = "" if ref is None else f"{ref.rpartition('@')[2]} "
    return Text.assemble((number, "bold"), digest(content))


def _revision(name: str, text: str, field: str) -> str:
    """The revision that is meant by `v3` or by `ns/name@v3` of this very artifact."""
    if "/" not in text:
        return text
    ref = Ref.parse(text)
    if ref.name.key != Name.parse(name).key or ref.revision is None:
        raise InvalidRequest(field=field, reason=f"{text!r} is no version of {name}; give v3, an alias or a digest")
    return ref.revision


def _expected(name: str, revision: str | None, digest_of: Callable[[str], str], anywhere: Any) -> Any:
    """The digest that the alias has to be at, None where it must not exist, or `anywhere`."""
    if revision is None:
        return anywhere
    return None if revision == ABSENT else digest_of(f"{name}@{_revision(name, revision, '--expected')}")
