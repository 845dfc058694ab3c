"""`graft demo`."""

from __future__ import annotations

from pathlib import Path

import click

from graftwork.cli.options import home_option


@click.command()
@click.option("--serve", is_flag=True, help="Leave the server running until Ctrl-C.")
@click.option("--fresh", is_flag=True, help="Train again what was trained before.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The seed of the training.")
@home_option
def demo(serve: bool, fresh: bool, seed: int, home: Path | None) -> None:
    """Train, merge, serve and hot-swap a family of small models.

    It takes about three minutes on two cores, needs no network, and works in a registry of its own.

    \b
    Example:
        graft demo --serve
    """
    from graftwork.demo.run import run

    run(home, seed=seed, fresh=fresh, serve=serve)
