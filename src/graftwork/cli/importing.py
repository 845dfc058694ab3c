"""`graft import`."""

from __future__ import annotations

from pathlib import Path

import click

from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.bars import progress_bars
from graftwork.cli.options import home_option, json_option
from graftwork.cli.render import count, print_json, say, size
from graftwork.registry.importer import import_source
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.versions import Kind
from graftwork.settings import load_settings


@click.command("import")
@click.argument("source")
@click.option("--name", required=True, help="NAMESPACE/NAME to register it under.")
@click.option("--base", help="The registered base it belongs on, as NAME, NAME@ALIAS or NAME@v3.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="What it is [default: told by its files]."
)
@click.option("--alias", "aliases", multiple=True, help="Point this alias at it; may be repeated.")
@home_option
@json_option
def import_(
    source: str,
    name: str,
    base: str | None,
    kind: str | None,
    aliases: tuple[str, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Register a checkpoint, an adapter or a dataset.

    SOURCE is a checkpoint folder, a PEFT adapter folder, a .safetensors or .jsonl file or hf:ORG/NAME[@REVISION]. An
    adapter is checked against its base, tensor by tensor; a dataset, line by line.

    \b
    Example:
        graft import ./support-lora --name acme/support --base acme/llama --alias prod
    """
    with Registry.open(load_settings(home=home)) as registry, progress_bars() as progress:
        version = import_source(
            registry,
            source,
            Name.parse(name),
            kind=Kind(kind) if kind else None,
            base=Ref.parse(base) if base else None,
            aliases=aliases,
            progress=progress,
        )
    if as_json:
        print_json(VersionOut.of(version))
    else:
        what = version.kind.replace("_", " ")
        say(f"{version.ref} ({what}, {count(len(version.files), 'file')}, {size(version.size)}) {version.digest[:12]}")
