"""`graft extract`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from graftwork.api.schemas.versions import VersionOut
from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option, parse_bytes
from graftwork.cli.place import Place, place_option, registry_of, told_of_options
from graftwork.cli.render import count, print_json, say, say_registered, show_table, size, table
from graftwork.client import jobs
from graftwork.merge.extract import extract as extraction
from graftwork.merge.extract.extraction import DELTA_DTYPES
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.client import Client

LISTED = 12


@click.command()
@click.argument("model")
@click.argument("out_dir", type=click.Path(path_type=Path), required=False)
@click.option("--base", required=True, help="The model it was fine-tuned from.")
@click.option("--rank", type=click.IntRange(1), metavar="K", help="Make a LoRA of this rank, by SVD of each layer.")
@click.option("--delta", "dense", is_flag=True, help="Make a dense task vector [default].")
@click.option("--dtype", type=click.Choice(list(DELTA_DTYPES)), default="float32", help="Of a dense task vector.")
@click.option("--strict", is_flag=True, help="Refuse a LoRA where something changed that it cannot hold.")
@click.option("--name", help="NAMESPACE/NAME to register the result under.")
@click.option("--alias", "aliases", multiple=True, help="Point this alias at the result; may be repeated.")
@click.option("--memory", callback=parse_bytes, metavar="SIZE", help="What it may hold in buffers, such as 256MB.")
@place_option
@json_option
def extract(
    model: str,
    out_dir: Path | None,
    base: str,
    rank: int | None,
    dense: bool,
    dtype: str,
    strict: bool,
    name: str | None,
    aliases: tuple[str, ...],
    memory: int | None,
    place: Place,
    as_json: bool,
) -> None:
    """Take what a fine-tune adds to its base: a task vector or a LoRA.

    MODEL and --base are folders, registry references or hf:ORG/NAME. The result is the folder OUT_DIR, or with --name
    a version of the registry. Tensors that changed and that a LoRA cannot hold are listed.

    \b
    Example:
        graft extract ./support-ft --base acme/llama --rank 16 --name acme/support-lora
    """
    if (out_dir is None) == (name is None):
        raise click.UsageError("Name either OUT_DIR or --name.")
    if aliases and name is None:
        raise click.UsageError("--alias is for a result that is registered: use --name.")
    if dense and rank is not None:
        raise click.UsageError("--delta and --rank exclude each other.")
    if rank is not None and dtype != "float32":
        raise click.UsageError("--dtype is for a dense task vector; a LoRA is stored in float32.")
    for option, given in {"OUT_DIR": out_dir, "--memory": memory}.items():
        if given is not None:
            place.refuse(f"{option} does")
    settings = place.settings if memory is None else replace(place.settings, memory=memory)
    if name is not None:
        order = {"rank": rank, "dtype": dtype, "strict": strict, "aliases": aliases}
        version, already_there, report = _to_registry(model, base, name, replace(place, settings=settings), order)
        if report is not None:
            _tell(report, rank, as_json, version.model_dump(mode="json"))
        elif as_json:
            print_json(version)
        if not as_json:
            say_registered(version, already_there=already_there)
    elif out_dir is not None:
        report = _to_folder(model, base, out_dir, settings, rank, dtype, strict)
        sizes = [file.stat().st_size for file in out_dir.rglob("*") if file.is_file()]
        _tell(report, rank, as_json, {"folder": str(out_dir), "files": len(sizes), "size": sum(sizes)})
        if not as_json:
            say(f"{out_dir} is ready: {count(len(sizes), 'file')}, {size(sum(sizes))}.")


def _to_registry(
    model: str, base: str, name: str, place: Place, order: dict[str, Any]
) -> tuple[VersionOut, bool, extraction.Report | None]:
    """The version, whether it was there, and what was kept of the change, which a server does not tell."""
    with progress_bars() as progress:

        def here(registry: Registry) -> tuple[VersionOut, bool, extraction.Report | None]:
            version, report = extraction.extract_version(
                model, base, Name.parse(name), registry=registry, settings=place.settings, progress=progress, **order
            )
            return VersionOut.of(version), not version.is_new, report

        def there(graft: Client) -> tuple[VersionOut, bool, extraction.Report | None]:
            job = graft(jobs.submit("extract", {"model": model, "base": base, "name": name, **order}))
            ended = waited(graft, job, progress)
            return graft(jobs.made(ended)), jobs.found_there(ended), None

        return place(here, there)


def _to_folder(
    model: str, base: str, out: Path, settings: Settings, rank: int | None, dtype: str, strict: bool
) -> extraction.Report:
    with progress_bars() as progress, told_of_options(), registry_of((model, base), settings) as registry:
        return extraction.extract(
            model,
            base,
            out=out,
            settings=settings,
            rank=rank,
            dtype=dtype,
            strict=strict,
            registry=registry,
            progress=progress,
        )


def _tell(report: extraction.Report, rank: int | None, as_json: bool, result: dict[str, object]) -> None:
    """The energy kept by each layer, the worst first, and what was left out."""
    if as_json:
        print_json({**result, **({} if rank is None else {"extraction": report.as_json()})})
        return
    if rank is None:
        return
    grid = table("layer", "rank", "norm", "energy kept", right=("rank", "norm", "energy kept"))
    worst = sorted(report.modules.items(), key=lambda entry: entry[1]["energy"])
    for module, found in worst[:LISTED]:
        grid.add_row(Text(module, style="bold"), str(found["rank"]), f"{found['norm']:.4g}", f"{found['energy']:.2%}")
    show_table(grid)
    if len(worst) > LISTED:
        say(Text(f"and {len(worst) - LISTED} layers more, each of which keeps at least as much.", style="dim"))
    say(f"{report.energy:.2%} of the squared norm of the whole change is kept.")
    if report.left:
        names = ", ".join(list(report.left)[:LISTED]) + (", ..." if len(report.left) > LISTED else "")
        say(Text(f"Not part of it, though they changed: {names}.", style="yellow"))
