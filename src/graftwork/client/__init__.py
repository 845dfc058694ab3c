"""A Graftwork server from Python.

    from graftwork.client import Client, adapters, aliases, jobs

    with Client("http://127.0.0.1:8000", token="gw_...") as graft:
        version = graft(adapters.upload("acme/support", Path("support-lora"), base="acme/llama"))
        graft(aliases.move("acme/support", "prod", version.digest))
        merged = graft.wait(graft(jobs.merge(recipe, name="acme/merged")).id)

`AsyncClient` sends the same calls on an event loop. For inference, use any client of OpenAI's API.
"""

from graftwork.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
