"""`graft import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.bars import progress_bars, told
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import count, print_json, say, size
from graftwork.client import jobs
from graftwork.client import uploads as calls
from graftwork.errors import SourceNotFound
from graftwork.registry.hub import PREFIX
from graftwork.registry.importer import EXPECTED, import_source
from graftwork.registry.refs import Name, Ref
from graftwork.registry.versions import Kind

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry


@click.command("import")
@click.argument("source")
@click.option("--name", required=True, help="NAMESPACE/NAME to register it under.")
@click.option("--base", help="The registered base it belongs on, as NAME, NAME@ALIAS or NAME@v3.")
@click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="What it is [default: told by its files]."
)
@click.option("--alias", "aliases", multiple=True, help="Point this alias at it; may be repeated.")
@place_option
@json_option
def import_(
    source: str,
    name: str,
    base: str | None,
    kind: str | None,
    aliases: tuple[str, ...],
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

        def here(registry: Registry) -> VersionOut:
            version = import_source(
                registry,
                source,
                Name.parse(name),
                kind=Kind(kind) if kind else None,
                base=Ref.parse(base) if base else None,
                aliases=aliases,
                progress=progress,
            )
            return VersionOut.of(version)

        def there(graft: Client) -> VersionOut:
            wanted: dict[str, Any] = {"kind": kind, "base": base, "aliases": aliases}
            if not source.startswith(PREFIX):
                path = Path(source).expanduser()
                if not path.exists():
                    raise SourceNotFound(source=source, expected=EXPECTED)
                return graft.run(calls.send(name, path, **wanted, progress=progress))
            job = graft(jobs.submit("import", {"source": source, "name": name, **wanted}))
            return graft(jobs.made(graft.wait(job.id, told(progress))))

        version = place(here, there)
    if as_json:
        print_json(version)
    else:
        what = version.kind.replace("_", " ")
        say(f"{version.ref} ({what}, {count(len(version.files), 'file')}, {size(version.size)}) {version.digest[:12]}")
