"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from graftwork.settings import parse_size

Command = Callable[..., Any]


def parse_bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """An option's value, such as 256MB, in bytes."""
    if value is None:
        return None
    try:
        return parse_size(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not {error}.", context, parameter) from None


def home_option(command: Command) -> Command:
    """`--home`: the registry to work in."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help="The registry's folder [default: GRAFTWORK_HOME, or the user's data folder].",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`: print JSON instead of a table."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)
