"""`graft import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftwork.api.schemas.versions import RegisteredOut
from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import print_json, say, say_registered
from graftwork.client import jobs
from graftwork.client import uploads as calls
from graftwork.errors import SourceNotFound
from graftwork.registry.formats.folder import trainer_state
from graftwork.registry.refs import Name, Ref
from graftwork.registry.transfer.hub import PREFIX
from graftwork.registry.transfer.importer import EXPECTED, import_source
from graftwork.registry.versions.version import Kind

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from graftwork.client import Client
    from graftwork.registry.registry import Registry
    from graftwork.registry.versions.version import Version


@click.command("import")
@click.argument("source")
@click.option("--name", required=True, help="NAMESPACE/NAME to register it under.")
@click.option("--base", help="The registered base it belongs on, as NAME, NAME@ALIAS or NAME@v3.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="What it is [default: told by its files]."
)
@click.option("--alias", "aliases", multiple=True, help="Point this alias at it; may be repeated.")
@click.option("--private", is_flag=True, help="Hide the artifact from whoever may not read in its namespace.")
@place_option
@json_option
def import_(
    source: str,
    name: str,
    base: str | None,
    kind: str | None,
    aliases: tuple[str, ...],
    private: bool,
    place: Place,
    as_json: bool,
) -> None:
    """Register a checkpoint, an adapter or a dataset.

    SOURCE is a checkpoint folder, a PEFT adapter folder, a .safetensors or .jsonl file or hf:ORG/NAME[@REVISION]. An
    adapter is checked against its base, tensor by tensor; a dataset, line by line.

    \b
    Example:
        graft import ./support-lora --name acme/support --base acme/llama --alias prod
    """
    with progress_bars() as progress:

        def here(registry: Registry) -> RegisteredOut:
            def hide(session: Session, version: Version) -> None:
                registry.repositories.set_private(version.name, True, session=session)

            version = import_source(
                registry,
                source,
                Name.parse(name),
                kind=Kind(kind) if kind else None,
                base=Ref.parse(base) if base else None,
                aliases=aliases,
                also=hide if private else None,
                progress=progress,
            )
            return RegisteredOut.of(version, already_there=not version.is_new)

        def there(graft: Client) -> RegisteredOut:
            wanted: dict[str, Any] = {"kind": kind, "base": base, "aliases": aliases, "private": private}
            if not source.startswith(PREFIX):
                path = Path(source).expanduser()
                if not path.exists():
                    raise SourceNotFound(source=source, expected=EXPECTED)
                return graft(calls.send(name, path, **wanted, progress=progress))
            job = graft(jobs.submit("import", {"source": source, "name": name, **wanted}))
            ended = waited(graft, job, progress)
            made = graft(jobs.made(ended)).model_dump()
            return RegisteredOut(**made, already_there=jobs.found_there(ended))

        version = place(here, there)
    if as_json:
        print_json(version)
    else:
        say_registered(version, already_there=version.already_there)
    folder = Path(source).expanduser()
    if folder.is_dir() and (left := trainer_state(folder)):
        say(f"Not taken, because only trainers read them: {', '.join(left)}")
