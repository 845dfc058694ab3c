"""A Graftwork server from Python.

    from graftwork.client import Client, adapters, aliases, jobs, uploads

    with Client("http://127.0.0.1:8000", token="gw_...") as graft:
        version = graft(adapters.upload("acme/support", "support-lora", base="acme/llama"))
        graft(aliases.move("acme/support", "prod", version.digest))
        merged = graft.wait(graft(jobs.merge(recipe, name="acme/merged")).id)
        large = graft(uploads.send("acme/llama", "llama"))

`AsyncClient` sends the same calls on an event loop. For inference, use any client of OpenAI's API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """The clients, and with them httpx, once they are asked for: calls are made without it."""
    if name not in __all__:
        raise AttributeError(name)
    from graftwork.client import client

    return getattr(client, name)
