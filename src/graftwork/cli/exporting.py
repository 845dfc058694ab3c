"""`graft export` and `graft verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graftwork.api.schemas.marks import MarkOut
from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.artifacts import quarantines
from graftwork.cli.bars import progress_bars
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, local_option, place_option
from graftwork.cli.render import count, print_json, say, size, tell
from graftwork.client import artifacts
from graftwork.client import downloads as calls
from graftwork.registry.registry import Registry
from graftwork.registry.transfer import snapshots
from graftwork.settings import load_settings

if TYPE_CHECKING:
    from graftwork.client import Client


@click.command()
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path))
@place_option
@json_option
def export(ref: str, folder: Path, place: Place, as_json: bool) -> None:
    """Write a version's files to a folder.

    FOLDER is empty or does not exist yet.

    \b
    Example:
        graft export acme/support@prod ./support
    """
    with progress_bars() as progress:

        def here(registry: Registry) -> tuple[VersionOut, list[MarkOut]]:
            version = registry.catalog.resolve(ref)
            snapshots.export(registry, version, folder, progress)
            return VersionOut.of(version), [MarkOut.of(entry) for entry in registry.marks.of(version)]

        def there(graft: Client) -> tuple[VersionOut, list[MarkOut]]:
            version = graft(calls.fetch(ref, folder, progress=progress))
            return version, graft(artifacts.resolve(version.ref)).marks

        version, marks = place(here, there)
    for why in quarantines(marks):
        say(f"warning: {version.ref} is quarantined: {why}")
    if as_json:
        print_json(version)
    else:
        say(f"{version.ref} is in {folder}: {count(len(version.files), 'file')}, {size(version.size)}.")


@click.command()
@click.argument("ref")
@local_option
@json_option
def verify(ref: str, home: Path | None, as_json: bool) -> None:
    """Hash a version's files again and compare.

    \b
    Example:
        graft verify acme/support@v3
    """
    with Registry.open(load_settings(home=home)) as registry, progress_bars() as progress:
        version = registry.catalog.resolve(ref)
        snapshots.verify(registry, version, progress)
    if as_json:
        print_json(VersionOut.of(version))
    else:
        tell(f"{version.ref} is whole: {count(len(version.files), 'file')}, {size(version.size)}.")
