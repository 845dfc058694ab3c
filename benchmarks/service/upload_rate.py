"""Small adapters uploaded over HTTP to several server processes that share one PostgreSQL.

    python -m benchmarks.service.upload_rate [--servers 4] [--clients 8] [--uploads 1000] [--database sqlite] [--s3]

Every upload is another adapter under another name. Prints uploads a second in all, how long one took, and the
processor time of the servers that one cost; fails when an upload is refused or the version is not whole.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from safetensors.numpy import load_file, save

from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import verify
from graftwork.settings import Settings, environment
from graftwork.testing.object_storage import running_object_storage
from graftwork.testing.postgres import running_postgres
from graftwork.testing.tiny import tiny_family

SERVER = """
import sys
from graftwork.api.application.app import create_app
from graftwork.api.application.server import bind, serve
from graftwork.settings import load_settings
settings = load_settings()
serve(create_app(settings), bind("127.0.0.1", settings.port), ready=lambda: print("ready", flush=True))
"""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BOUNDARY = "graftwork-upload-rate"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CHECKED = 20
WARMING = 40
"""Uploads that are not counted: the servers import and compile what the first ones need."""


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def servers(settings: Settings, number: int) -> Iterator[dict[str, psutil.Process]]:
    """Server processes by their URLs."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(number):
            port = free_port()
            env = {**environment(settings), "GRAFTWORK_PORT": str(port), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-c", SERVER]
            processes[f"http://127.0.0.1:{port}"] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
        for process in processes.values():
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("a server did not start")
        yield {url: psutil.Process(process.pid) for url, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def spent(processes: Iterator[psutil.Process]) -> float:
    """Seconds of processor time that the processes used so far."""
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


class Load:
    """Clients that upload one adapter after the other until all are there.

    Bodies are made beforehand, and connections are kept: the machine is to be the servers'.
    """

    def __init__(self, urls: list[str], adapter: Path, numbers: range) -> None:
        self._urls = urls
        config = (adapter / CONFIG).read_bytes()
        tensors = load_file(adapter / WEIGHTS)
        self._bodies = [_body(config, tensors, number) for number in numbers]
        self._next = iter(self._bodies)
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.refused: list[str] = []

    def run(self, clients: int) -> float:
        """Upload all. Returns the seconds that it took."""
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    def _client(self, number: int) -> None:
        connection = HTTPConnection(urlsplit(self._urls[number % len(self._urls)]).netloc, timeout=60)
        while True:
            with self._lock:
                body = next(self._next, None)
            if body is None:
                return
            began = time.perf_counter()
            connection.request("POST", "/api/v1/adapters", body, {"Content-Type": FORM})
            told = connection.getresponse()
            text = told.read()
            self.seconds.append(time.perf_counter() - began)
            if told.status != HTTPStatus.CREATED:
                self.refused.append(text.decode())


def _body(config: bytes, tensors: dict[str, np.ndarray[Any, Any]], number: int) -> bytes:
    """The form that uploads an adapter of which the first tensor is its own."""
    first = next(iter(tensors))
    weights = save({**tensors, first: np.full_like(tensors[first], number / 1e4)}, {"format": "pt"})
    fields = {"name": f"load/a{number}", "base": "tiny/base"}
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    for name, content in ((CONFIG, config), (WEIGHTS, weights)):
        parts.append(f'name="files"; filename="{name}"\r\n\r\n'.encode() + content)
    lines = [f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


def main() -> int:
    """Run; 1 when an upload is refused or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(running_postgres(durable=True)).new_schema() if options.database != "sqlite" else ""
        storage = ""
        if options.s3:
            server = stack.enter_context(running_object_storage())
            os.environ.update(server.credentials)
            storage = server.new_prefix()
        settings = Settings(home=home / "home", database_url=url, storage_url=storage, threads=1)
        family = tiny_family(home / "family", fine_tunes=0, adapters=1)
        registry = stack.enter_context(Registry.open(settings))
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        processes = stack.enter_context(servers(settings, options.servers))
        adapter = family.adapters["adapter0"]
        Load(list(processes), adapter, range(options.uploads, options.uploads + WARMING)).run(options.clients)
        load = Load(list(processes), adapter, range(options.uploads))
        before = spent(iter(processes.values()))
        taken = load.run(options.clients)
        busy = spent(iter(processes.values())) - before
        for number in range(0, options.uploads, max(1, options.uploads // CHECKED)):
            verify(registry, registry.catalog.resolve(f"load/a{number}"))
        ordered = sorted(load.seconds)
        size = sum((adapter / file).stat().st_size for file in (CONFIG, WEIGHTS))
        where = f"{options.database}, {'S3' if options.s3 else 'local files'}"
        print(
            f"{where}, {options.servers} servers, {options.clients} clients, {size / 1e3:.0f} kB an adapter: ", end=""
        )
        print(f"{options.uploads / taken:.0f} uploads a second; ", end="")
        print(
            f"p50 {ordered[len(ordered) // 2] * 1e3:.0f} ms, p95 {ordered[int(len(ordered) * 0.95)] * 1e3:.0f} ms; ",
            end="",
        )
        print(f"{busy / options.uploads * 1e3:.1f} ms of processor time an upload")
        for text in load.refused[:3]:
            print(f"refused: {text}", file=sys.stderr)
        return 1 if load.refused else 0


if __name__ == "__main__":
    sys.exit(main())
