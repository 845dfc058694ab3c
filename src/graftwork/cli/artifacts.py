"""`graft ls` and `graft show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from graftwork.api.schemas.artifacts import ArtifactOut
from graftwork.api.schemas.marks import MarkOut
from graftwork.api.schemas.versions import VersionDetail
from graftwork.cli.evaluating import show_evaluations
from graftwork.cli.options import json_option
from graftwork.cli.place import Place, place_option
from graftwork.cli.render import age, console, count, digest, kind, print_json, say, show_table, size, table
from graftwork.client import artifacts as calls
from graftwork.registry.versions.marks import Mark
from graftwork.registry.versions.version import Kind

if TYPE_CHECKING:
    from graftwork.client import Client
    from graftwork.registry.registry import Registry

PAGE = 500


@click.command()
@click.argument("search", required=False)
@click.option("--kind", "wanted", type=click.Choice([kind.value for kind in Kind]), help="Only artifacts of this kind.")
@click.option("--namespace", help="Only artifacts of this namespace.")
@place_option
@json_option
def ls(search: str | None, wanted: str | None, namespace: str | None, place: Place, as_json: bool) -> None:
    """List what the registry holds.

    SEARCH is a part of a name.

    \b
    Example:
        graft ls --kind adapter
    """

    def here(registry: Registry) -> tuple[list[ArtifactOut], dict[str, str]]:
        found: list[ArtifactOut] = []
        while page := registry.catalog.list(
            kind=Kind(wanted) if wanted else None,
            namespace=namespace,
            search=search,
            limit=PAGE,
            after=found[-1].name if found else None,
        ):
            found += [ArtifactOut.of(artifact) for artifact in page]
        digests = {artifact.base for artifact in found if artifact.base}
        return found, {digest: str(registry.catalog.by_digest(digest).name) for digest in digests}

    def there(graft: Client) -> tuple[list[ArtifactOut], dict[str, str]]:
        found = list(graft.pages(calls.listing(kind=wanted, namespace=namespace, search=search, limit=PAGE)))
        children = {artifact.base: artifact for artifact in found if artifact.base}
        parents = [parent for child in children.values() for parent in graft(calls.resolve(child.name)).parents]
        return found, {parent.digest: parent.ref.partition("@")[0] for parent in parents if parent.ref}

    found, bases = place(here, there)
    if as_json:
        print_json(found)
    elif found:
        _list(found, bases)
    elif search or wanted or namespace:
        say("Nothing in the registry matches.")
    else:
        say(Text.assemble("The registry is empty. Begin with ", ("graft import SOURCE --name NS/NAME", "bold"), "."))


@click.command()
@click.argument("ref")
@place_option
@json_option
def show(ref: str, place: Place, as_json: bool) -> None:
    """Show one version: its files, tensors and parents.

    REF is NS/NAME (the newest), NS/NAME@ALIAS, NS/NAME@v3, or NS/NAME@ and the start of a digest.

    \b
    Example:
        graft show acme/support@prod
    """
    version = place(
        lambda registry: VersionDetail.read(registry, registry.catalog.resolve(ref)),
        lambda graft: graft(calls.resolve(ref)),
    )
    print_json(version) if as_json else _show(version)


def _list(found: list[ArtifactOut], bases: dict[str, str]) -> None:
    grid = table("name", "kind", "version", "aliases", "base", "size", "updated", "", right=("version", "size"))
    for artifact in found:
        grid.add_row(
            _name(artifact.name),
            kind(artifact.kind),
            artifact.ref.partition("@")[2],
            _aliases(artifact),
            Text(bases.get(artifact.base or "", "-"), style="dim"),
            size(artifact.size),
            Text(age(artifact.updated_at), style="dim"),
            _notes(artifact),
        )
    show_table(grid)
    kinds = [artifact.kind for artifact in found]
    say(Text(", ".join(count(kinds.count(name), name.replace("_", " ")) for name in dict.fromkeys(kinds)), style="dim"))


def _name(name: str) -> Text:
    namespace, _, rest = name.partition("/")
    return Text.assemble((f"{namespace}/", "dim"), (rest, "bold"))


def _notes(artifact: ArtifactOut) -> Text:
    private = ("private", "dim") if artifact.private else ""
    return Text.assemble(private, " " if private else "", ("quarantined", "red") if artifact.quarantined else "")


def _aliases(artifact: ArtifactOut) -> Text:
    """Every alias; those that point to the newest version stand out."""
    parts = [
        (alias, "green" if pointed == artifact.digest else "yellow")
        for alias, pointed in sorted(artifact.aliases.items())
    ]
    return Text(" ").join(Text(alias, style=style) for alias, style in parts) if parts else Text("-", style="dim")


def _show(version: VersionDetail) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("version", Text(version.ref, style="bold"))
    facts.add_row("kind", kind(version.kind))
    facts.add_row("digest", version.digest)
    facts.add_row("aliases", ", ".join(version.aliases) or "-")
    if version.private:
        facts.add_row("private", f"only whoever may read in {version.name.partition('/')[0]} sees it")
    for why in quarantines(version.marks):
        facts.add_row("quarantined", Text(why, style="red"))
    if tensors := version.tensors.count:
        dtypes = ", ".join(version.tensors.dtypes)
        facts.add_row("tensors", f"{tensors:,} ({version.tensors.parameters:,} parameters, {dtypes})")
    facts.add_row("created", f"{version.created_at:%Y-%m-%d %H:%M:%S} UTC ({age(version.created_at)})")
    for key, value in _plain_facts(version.metadata):
        facts.add_row(key, value)
    console().print(facts)
    if version.parents:
        parents = table("made from", "as", "weight", "digest", right=("weight",))
        for parent in version.parents:
            weight = "" if parent.weight is None else f"{parent.weight:g}"
            parents.add_row(parent.ref or "not here", parent.relation.replace("_", " "), weight, digest(parent.digest))
        show_table(parents)
    if version.evaluations:
        show_evaluations(version.evaluations)
    files = table("file", "size", "sha256", right=("size",))
    for file in version.files:
        files.add_row(file.path, size(file.size), digest(file.sha256))
    show_table(files)


def quarantines(marks: Sequence[MarkOut]) -> Iterator[str]:
    """Why a version is quarantined, if it is: `trained on poison, because of acme/poisoned@v1`."""
    for entry in marks:
        if entry.mark == Mark.QUARANTINED:
            because = "" if entry.cause_digest is None else f", because of {entry.cause or entry.cause_digest[:12]}"
            yield f"{entry.reason or 'no reason was given'}{because}"


def _plain_facts(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """What is one word or number; recipes and lists are left to `--json`."""
    for key, value in metadata.items():
        if isinstance(value, str | int | float):
            yield f"{prefix}{key}".replace("_", " "), str(value)
        elif isinstance(value, Mapping) and not prefix:
            yield from _plain_facts(value, f"{key} ")
