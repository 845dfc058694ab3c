"""`graft quotas`."""

from __future__ import annotations

import getpass
from typing import Any

import click
from rich.text import Text

from graftwork.api.schemas.quotas import QuotaOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, say, show_table, table
from graftwork.client import tenants as calls
from graftwork.errors import InvalidSetting
from graftwork.settings import parse_size


@click.group()
def quotas() -> None:
    """Say how much a namespace may hold.

    \b
    Example:
        graft quotas set acme --bytes 50GB --versions 1000
    """


@quotas.command("set")
@click.argument("namespace")
@click.option("--bytes", "size", metavar="SIZE", help="Of distinct files, such as 50GB [default: any amount].")
@click.option(
    "--versions", type=click.IntRange(0), metavar="N", help="Of all artifacts together [default: any number]."
)
@place_option
@json_option
def set_quota(namespace: str, size: str | None, versions: int | None, place: Place, as_json: bool) -> None:
    """Say what a namespace may hold; without options, anything. What it holds already stays.

    \b
    Example:
        graft quotas set acme --bytes 50GB --versions 1000
    """
    try:
        most = None if size is None else parse_size(size)
    except ValueError as error:
        raise InvalidSetting(name="--bytes", value=size, expected=error) from None
    limits: dict[str, Any] = {"max_bytes": most, "max_versions": versions}
    quota = place(
        lambda registry: QuotaOut.of(registry.quotas.set(namespace, **limits, actor=getpass.getuser())),
        lambda graft: graft(calls.set_quota(namespace, **limits)),
    )
    _show([quota], as_json)


@quotas.command("ls")
@place_option
@json_option
def ls(place: Place, as_json: bool) -> None:
    """List the namespaces that have a quota.

    \b
    Example:
        graft quotas ls
    """
    found = place(
        lambda registry: [QuotaOut.of(quota) for quota in registry.quotas.list()],
        lambda graft: graft(calls.quotas()),
    )
    _show(found, as_json)


def _show(found: list[QuotaOut], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if not found:
        say("No namespace has a quota.")
        return
    grid = table("namespace", "bytes", "of", "versions", "of", right=("bytes", "of", "versions"))
    for quota in found:
        limits = ["any" if limit is None else f"{limit:,}" for limit in (quota.max_bytes, quota.max_versions)]
        held = (f"{quota.bytes:,}", limits[0], f"{quota.versions:,}", limits[1])
        grid.add_row(Text(quota.namespace, style="bold"), *held)
    show_table(grid)
