"""`graft quotas`."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from graftwork.api.schemas.quotas import QuotaOut
from graftwork.cli.options import json_option, parse_bytes
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, print_list, show_table, table
from graftwork.client import tenants as calls
from graftwork.registry.access.access import doer


@click.group()
def quotas() -> None:
    """Say how much a namespace may hold.

    \b
    Example:
        graft quotas set acme --bytes 50GB --versions 1000
    """


@quotas.command()
@click.argument("namespace")
@place_option
@json_option
def show(namespace: str, place: Place, as_json: bool) -> None:
    """Show what a namespace holds and what it may hold.

    \b
    Example:
        graft quotas show acme
    """
    quota = place(
        lambda registry: QuotaOut.of(registry.quotas.get(namespace)), lambda graft: graft(calls.quota(namespace))
    )
    print_json(quota) if as_json else _show([quota])


@quotas.command("set")
@click.argument("namespace")
@click.option(
    "--bytes",
    "most",
    callback=parse_bytes,
    metavar="SIZE",
    help="Of distinct files, such as 50GB [default: any amount].",
)
@click.option(
    "--versions", type=click.IntRange(0), metavar="N", help="Of all artifacts together [default: any number]."
)
@place_option
@json_option
def set_quota(namespace: str, most: int | None, versions: int | None, place: Place, as_json: bool) -> None:
    """Say what a namespace may hold; without options, anything. What it holds already stays.

    \b
    Example:
        graft quotas set acme --bytes 50GB --versions 1000
    """
    limits: dict[str, Any] = {"max_bytes": most, "max_versions": versions}
    quota = place(
        lambda registry: QuotaOut.of(registry.quotas.set(namespace, **limits, actor=doer())),
        lambda graft: graft(calls.set_quota(namespace, **limits)),
    )
    print_json(quota) if as_json else _show([quota])


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
    print_list(found, as_json, _show, "No namespace has a quota.")


def _show(found: list[QuotaOut]) -> None:
    numbers = ("bytes", "bytes at most", "versions", "versions at most")
    grid = table("namespace", *numbers, right=numbers)
    for quota in found:
        most_bytes, most = ("any" if limit is None else f"{limit:,}" for limit in (quota.max_bytes, quota.max_versions))
        grid.add_row(Text(quota.namespace, style="bold"), f"{quota.bytes:,}", most_bytes, f"{quota.versions:,}", most)
    show_table(grid)
