"""`graft methods`."""

from __future__ import annotations

import json

import click
from rich.text import Text

from graftwork.api.schemas.methods import MethodOut
from graftwork.cli.options import json_option
from graftwork.cli.render import console, print_json, say, show_table, table
from graftwork.merge.document import accepts, document
from graftwork.merge.method import find_method
from graftwork.merge.method import methods as all_methods


@click.command()
@click.argument("name", required=False)
@click.option("--markdown", is_flag=True, help="Print the page about all methods, docs/methods.md.")
@json_option
def methods(name: str | None, markdown: bool, as_json: bool) -> None:
    """List the merge methods, or the parameters of one.

    \b
    Example:
        graft methods ties
    """
    if markdown:
        click.echo(document(), nl=False)
        return
    if name is not None:
        method = MethodOut.of(find_method(name))
        print_json(method) if as_json else _show_one(method)
        return
    known = [MethodOut.of(method) for method in all_methods().values()]
    print_json(known) if as_json else _show_all(known)


def _show_all(known: list[MethodOut]) -> None:
    grid = table("method", "models", "base", "what it does")
    for method in known:
        base = "required" if method.needs_base else "-"
        grid.add_row(Text(method.name, style="bold"), _models(method), base, method.summary)
    show_table(grid)
    say(Text("graft methods NAME shows the parameters of one.", style="dim"))


def _show_one(method: MethodOut) -> None:
    screen = console()
    screen.print(Text(method.name, style="bold"), Text(method.cites, style="dim"))
    screen.print(Text(method.description), soft_wrap=True)
    grid = table("parameter", "accepts", "default", "set")
    required = method.parameters["required"]
    for name, schema in method.parameters["properties"].items():
        default = "required" if name in required else json.dumps(schema.get("default"))
        where = "per model or for all" if schema.get("perModel") else "for all"
        grid.add_row(Text(name, style="bold"), accepts(schema), default, where)
    show_table(grid)


def _models(method: MethodOut) -> str:
    if method.max_models is None:
        return f"{method.min_models} or more"
    if method.max_models == method.min_models:
        return str(method.min_models)
    return f"{method.min_models} to {method.max_models}"
