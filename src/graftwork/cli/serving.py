"""`graft serve`."""

from __future__ import annotations

from pathlib import Path

import click

from graftwork.cli.options import home_option
from graftwork.cli.render import say
from graftwork.errors import InvalidSetting
from graftwork.settings import load_settings


@click.command()
@click.option("--host", help="The address to bind [default: GRAFTWORK_HOST, or 127.0.0.1].")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="0 takes any free port [default: GRAFTWORK_PORT, or 8000].",
)
@click.option("--insecure", is_flag=True, help="Bind an address that other machines reach, without authentication.")
@home_option
def serve(host: str | None, port: int | None, insecure: bool, home: Path | None) -> None:
    """Serve the registry, merges and inference over HTTP.

    \b
    Example:
        graft serve --port 8000
    """
    from graftwork.api import server
    from graftwork.api.app import create_app
    from graftwork.registry.registry import Registry

    settings = load_settings(host=host, port=port, home=home)
    if not insecure and not server.is_loopback(settings.host):
        expected = (
            "a loopback address such as 127.0.0.1, for there is no authentication yet (--insecure binds it anyway)"
        )
        raise InvalidSetting(name="--host", value=settings.host, expected=expected)
    Registry.open(settings).close()
    listener = server.bind(settings.host, settings.port)
    url = server.address(listener)
    server.serve(
        create_app(settings), listener, ready=lambda: say(f"Serving {settings.home} on {url} (Ctrl-C stops it)")
    )
