"""`graft whoami`."""

from __future__ import annotations

import click

from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, tell
from graftwork.client import tenants as calls
from graftwork.registry.access.access import doer


@click.command()
@place_option
@json_option
def whoami(place: Place, as_json: bool) -> None:
    """Say who you are to the registry, and where you may write.

    \b
    Example:
        graft whoami --server http://127.0.0.1:8000
    """
    found = place(
        lambda registry: calls.Identity(owner=doer(), writes=True, namespaces=[]),
        lambda graft: graft(calls.whoami()),
    )
    if as_json:
        print_json(found)
        return
    where = f"in {', '.join(found.namespaces)}" if found.namespaces else "everywhere"
    tell(f"{found.owner} may write {where}." if found.writes else f"{found.owner} may write nowhere.")
