"""Running the application: bind first, so that a busy port is told in one sentence, then serve until stopped."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from graftwork.errors import ServerUnavailable

BACKLOG = 2048
DRAIN_SECONDS = 5
"""How long requests that are being answered may go on once the server is told to stop."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0 for any free one). Raises ServerUnavailable."""
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise ServerUnavailable(address=f"{host}:{port}", reason=error.strerror) from None
    except OSError as error:
        raise ServerUnavailable(address=f"{host}:{port}", reason=os.strerror(error.errno or 0)) from None


def address(listener: socket.socket) -> str:
    """The URL under which `listener` is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def serve(app: FastAPI, listener: socket.socket, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve on `listener` until a signal stops the process; `ready` is called once requests are answered."""
    _Server(app, ready).run(sockets=[listener])


@contextmanager
def running(app: FastAPI, *, host: str = "127.0.0.1") -> Iterator[str]:
    """`app` in a thread of this process, on any free port; yields its URL. Raises ServerUnavailable."""
    listener = bind(host, 0)
    url = address(listener)
    ready = threading.Event()
    server = _Server(app, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="graftwork-server")
    thread.start()
    try:
        while not ready.wait(0.05):
            if not thread.is_alive():
                raise ServerUnavailable(address=url, reason="it stopped while it was starting; its log tells more")
        yield url
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="on",
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                ws="none",
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
