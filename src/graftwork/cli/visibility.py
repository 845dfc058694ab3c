"""`graft private` and `graft public`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from graftwork.api.schemas.artifacts import ArtifactOut
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, say
from graftwork.client import artifacts as calls
from graftwork.registry.refs import Name

if TYPE_CHECKING:
    from graftwork.registry.registry import Registry


@click.command()
@click.argument("name")
@place_option
@json_option
def private(name: str, place: Place, as_json: bool) -> None:
    """Hide an artifact from whoever may not read in its namespace.

    To others it is as if it were not there; neither do their lineages and their errors name it.

    \b
    Example:
        graft private acme/support
    """
    changed = _set(place, name, private=True)
    print_json(changed) if as_json else say(f"{changed.name} is private now.")


@click.command()
@click.argument("name")
@place_option
@json_option
def public(name: str, place: Place, as_json: bool) -> None:
    """Show a private artifact to everybody.

    \b
    Example:
        graft public acme/support
    """
    changed = _set(place, name, private=False)
    print_json(changed) if as_json else say(f"{changed.name} is public now.")


def _set(place: Place, name: str, *, private: bool) -> ArtifactOut:
    def here(registry: Registry) -> ArtifactOut:
        artifact = registry.catalog.get(Name.parse(name))
        registry.repositories.set_private(artifact.name, private)
        return ArtifactOut.of(registry.catalog.get(artifact.name))

    return place(here, lambda graft: graft(calls.set_private(name, private)))
