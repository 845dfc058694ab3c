"""`graft tokens`."""

from __future__ import annotations

import click
from rich.text import Text

from graftwork.api.schemas.tokens import NewTokenOut, TokenOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, print_json, print_list, say, show_table, table
from graftwork.client import tenants as calls
from graftwork.registry.access.access import doer
from graftwork.registry.access.grants import Grants
from graftwork.registry.registry import Registry

DAY_SECONDS = 86400.0


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens that a server asks for.

    \b
    Example:
        graft tokens create ada --grant acme=write,infer
    """


@tokens.command()
@click.argument("owner")
@click.option("--grant", "grants", multiple=True, required=True, metavar="NAMESPACE=SCOPES", help="May be repeated.")
@click.option("--name", default="", help="What it is for.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), metavar="N", help="How long it is good for.")
@place_option
@json_option
def create(owner: str, grants: tuple[str, ...], name: str, days: float | None, place: Place, as_json: bool) -> None:
    """Make a token and print its secret, which is shown only now.

    Scopes are read, write, infer and admin, with commas between them; the namespace * stands for every one.

    \b
    Example:
        graft tokens create ada --grant acme=write,infer --grant public=read --days 90
    """
    given: dict[str, list[str]] = {}
    for grant in grants:
        namespace, equals, scopes = grant.partition("=")
        if not equals:
            raise click.UsageError(f"--grant {grant!r} is not NAMESPACE=SCOPES, such as acme=write,infer.")
        given[namespace] = scopes.split(",")

    def here(registry: Registry) -> NewTokenOut:
        seconds = None if days is None else days * DAY_SECONDS
        secret, token = registry.tokens.create(owner, Grants.parse(given), name=name, seconds=seconds, actor=doer())
        return NewTokenOut(**TokenOut.of(token).model_dump(), secret=secret)

    token = place(here, lambda graft: graft(calls.create_token(owner, given, name=name, days=days)))
    if as_json:
        print_json(token)
    else:
        say(f"Token {token.id} for {owner}; keep it, it is not shown again:")
        click.echo(token.secret)


@tokens.command("ls")
@place_option
@json_option
def ls(place: Place, as_json: bool) -> None:
    """List the tokens, newest first.

    \b
    Example:
        graft tokens ls
    """
    found = place(
        lambda registry: [TokenOut.of(token) for token in registry.tokens.list()], lambda graft: graft(calls.tokens())
    )
    print_list(found, as_json, _show, "There are no tokens.")


@tokens.command()
@click.argument("token_id", metavar="ID", type=int)
@place_option
@json_option
def revoke(token_id: int, place: Place, as_json: bool) -> None:
    """End a token at once.

    \b
    Example:
        graft tokens revoke 3
    """
    token = place(
        lambda registry: TokenOut.of(registry.tokens.revoke(token_id, actor=doer())),
        lambda graft: graft(calls.revoke_token(token_id)),
    )
    print_json(token) if as_json else say(f"Token {token.id} of {token.owner} is good for nothing now.")


def _show(found: list[TokenOut]) -> None:
    grid = table("id", "owner", "name", "grants", "made", "used", "state", right=("id",))
    for token in found:
        grants = " ".join(f"{namespace}={','.join(scopes)}" for namespace, scopes in token.grants.items())
        used = "never" if token.last_used_at is None else age(token.last_used_at)
        made, owner = Text(age(token.created_at), style="dim"), Text(token.owner, style="bold")
        grid.add_row(str(token.id), owner, token.name, grants, made, used, "revoked" if token.revoked_at else "good")
    show_table(grid)
