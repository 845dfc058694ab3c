"""`graft serve`."""

from __future__ import annotations

from pathlib import Path

import click

from graftwork import logs, tracing
from graftwork.cli.options import home_option
from graftwork.cli.render import say
from graftwork.errors import InvalidSetting
from graftwork.settings import ENGINE_CHOICES, load_settings


@click.command()
@click.option("--host", help="The address to bind [default: GRAFTWORK_HOST, or 127.0.0.1].")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="0 takes any free port [default: GRAFTWORK_PORT, or 8000].",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINE_CHOICES),
    help="Who computes: this process, or vLLM servers behind it [default: GRAFTWORK_ENGINE, or embedded].",
)
@click.option("--engine-url", "engine_urls", metavar="URL", multiple=True, help="A vLLM server; may be repeated.")
@click.option(
    "--base",
    metavar="REF",
    help="The base those servers serve; unneeded when they are named after it by --served-model-name.",
)
@click.option(
    "--max-lora-rank", type=click.IntRange(1), metavar="N", help="As those servers were started [default: 16]."
)
@click.option("--insecure", is_flag=True, help="Ask nobody for a token, not even other machines.")
@home_option
def serve(
    host: str | None,
    port: int | None,
    engine: str | None,
    engine_urls: tuple[str, ...],
    base: str | None,
    max_lora_rank: int | None,
    insecure: bool,
    home: Path | None,
) -> None:
    """Serve the registry, merges and inference over HTTP.

    \b
    Example:
        graft serve --engine vllm --engine-url http://10.0.0.1:8000 --engine-url http://10.0.0.2:8000
    """
    from graftwork.api.application import server
    from graftwork.api.application.app import create_app
    from graftwork.registry.registry import Registry

    settings = load_settings(
        host=host,
        port=port,
        home=home,
        engine=engine,
        engine_urls=",".join(engine_urls) or None,
        engine_base=base,
        max_lora_rank=max_lora_rank,
        auth="off" if insecure else None,
    )
    if settings.engine != "vllm" and (engine_urls or base or max_lora_rank):
        raise click.UsageError(
            "--engine-url, --base and --max-lora-rank go with --engine vllm.", click.get_current_context()
        )
    if settings.engine == "vllm" and not settings.engine_urls:
        raise InvalidSetting(name="--engine-url", value="", expected="the URL of a vLLM server, at least one")
    logs.configure(settings)
    tracing.configure(settings)
    with Registry.open(settings) as registry:
        if settings.authenticated and not registry.tokens.list():
            say("Every request needs a token, and there is none: make one with 'graft tokens create'.")
    app = create_app(settings)
    listener = server.bind(settings.host, settings.port)
    url = server.address(listener)
    server.serve(
        app,
        listener,
        ready=lambda: say(f"Serving {settings.home} on {url} (its API: {url}/docs; Ctrl-C stops it)"),
    )
