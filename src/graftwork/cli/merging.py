"""`graft merge`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graftwork.cli.bars import progress_bars, waited
from graftwork.cli.options import json_option, parse_bytes
from graftwork.cli.place import Place, place_option, registry_of
from graftwork.cli.planning import show_plan
from graftwork.cli.render import count, print_json, say, say_registered, size
from graftwork.errors import InvalidRecipe
from graftwork.merge.plan.plan import plan as plan_merge
from graftwork.merge.recipe.recipe import Recipe, load_recipe
from graftwork.merge.run import run
from graftwork.settings import EXECUTOR_CHOICES, Settings

if TYPE_CHECKING:
    from graftwork.api.schemas.versions import VersionOut
    from graftwork.client import Client
    from graftwork.registry.registry import Registry

STDIN = Path("-")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("out_dir", type=click.Path(path_type=Path), required=False)
@click.option("--name", help="NAMESPACE/NAME to register the result under [default: the recipe's output.name].")
@click.option("--alias", "aliases", multiple=True, help="Point this alias at the result; may be repeated.")
@click.option("--plan", "only_plan", is_flag=True, help="Check everything and print what would be done.")
@click.option("--memory", callback=parse_bytes, metavar="SIZE", help="What it may hold in buffers, such as 256MB.")
@click.option(
    "--threads", type=click.IntRange(1), metavar="N", help="How many threads to use [default: one a processor]."
)
@click.option(
    "--executor", type=click.Choice(EXECUTOR_CHOICES), help="Where it is computed [default: GRAFTWORK_EXECUTOR, local]."
)
@click.option("--device", metavar="DEVICE", help="cpu, or a GPU such as cuda [default: GRAFTWORK_DEVICE, cpu].")
@place_option
@json_option
def merge(
    recipe: Path,
    out_dir: Path | None,
    name: str | None,
    aliases: tuple[str, ...],
    only_plan: bool,
    memory: int | None,
    threads: int | None,
    executor: str | None,
    device: str | None,
    place: Place,
    as_json: bool,
) -> None:
    """Merge models as a recipe says.

    With OUT_DIR the result is a folder and the models may be mere paths; without it, the result is registered with
    its lineage. RECIPE may be -, for stdin.

    \b
    Example:
        graft merge recipe.yaml --name acme/merged --alias candidate
    """
    if out_dir is not None and (name or aliases):
        raise click.UsageError("--name and --alias are for a result that is registered: leave OUT_DIR out.")
    chosen = {"memory": memory, "threads": threads, "executor": executor, "device": device}
    given: dict[str, Any] = {option: value for option, value in chosen.items() if value is not None}
    for option, is_given in {"OUT_DIR": out_dir, "--plan": only_plan, **{f"--{key}": True for key in given}}.items():
        if is_given:
            place.refuse(f"{option} does")
    settings = replace(place.settings, **given)
    wanted = _with_aliases(load_recipe(_from_stdin() if recipe == STDIN else recipe), aliases)
    if only_plan:
        _print_plan(wanted, out_dir, name, settings, as_json)
    elif out_dir is not None:
        _to_folder(wanted, out_dir, settings, as_json)
    else:
        _to_registry(wanted, name, replace(place, settings=settings), as_json)


def _from_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRecipe(where="stdin", reason="it is not text in UTF-8") from None


def _with_aliases(recipe: Recipe, aliases: tuple[str, ...]) -> Recipe:
    if not aliases:
        return recipe
    output = recipe.output.model_copy(update={"aliases": tuple(dict.fromkeys((*recipe.output.aliases, *aliases)))})
    return recipe.model_copy(update={"output": output})


def _print_plan(recipe: Recipe, out: Path | None, name: str | None, settings: Settings, as_json: bool) -> None:
    target = same = None
    if out is None:
        from graftwork.merge.run.publish import made_before, target_of

        target = target_of(recipe, name)
    with _registry_for(recipe, settings) as registry:
        planned = plan_merge(recipe, settings=settings, registry=registry, out=out)
        planned.close()
        if target is not None and registry is not None:
            same = made_before(planned, registry, target)
    goes_to, made = str(target or out), None if same is None else same.ref
    if as_json:
        names = [origin.public_name for origin in planned.models]
        more = {"versions": names, "output": goes_to, "aliases": recipe.output.aliases, "made_before": made}
        print_json(planned.summary() | more)
    else:
        show_plan(planned, goes_to, made)


def _to_folder(recipe: Recipe, out: Path, settings: Settings, as_json: bool) -> None:
    with _registry_for(recipe, settings) as registry, progress_bars() as progress:
        run.merge(recipe, out=out, registry=registry, settings=settings, progress=progress)
    sizes = [file.stat().st_size for file in out.rglob("*") if file.is_file()]
    if as_json:
        print_json({"folder": str(out), "files": len(sizes), "size": sum(sizes)})
    else:
        say(f"{out} is ready: {count(len(sizes), 'file')}, {size(sum(sizes))}.")


def _to_registry(recipe: Recipe, name: str | None, place: Place, as_json: bool) -> None:
    from graftwork.api.schemas.versions import VersionOut
    from graftwork.client import jobs as calls

    with progress_bars() as progress:

        def here(registry: Registry) -> tuple[VersionOut, bool]:
            made = run.merge(recipe, registry=registry, settings=place.settings, progress=progress, name=name)
            return VersionOut.of(made), not made.is_new

        def there(graft: Client) -> tuple[VersionOut, bool]:
            job = graft(calls.merge(recipe.model_dump(mode="json", exclude_defaults=True), name=name))
            ended = waited(graft, job, progress)
            return graft(calls.made(ended)), calls.found_there(ended)

        version, already_there = place(here, there)
    if as_json:
        print_json(version)
    else:
        say_registered(version, already_there=already_there)


def _registry_for(recipe: Recipe, settings: Settings) -> AbstractContextManager[Registry | None]:
    steps = {step.name for step in recipe.steps}
    return registry_of({name for part in (*recipe.steps, recipe) for name in part.references} - steps, settings)
