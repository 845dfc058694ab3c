"""Kill servers with SIGKILL in the middle of uploads, and look at what became of the uploads.

    python -m benchmarks.service.server_kills [--kills 50] [--database postgresql] [--servers 3] [--clients 4]

Servers share one home and are replaced as they die. Clients send small adapters in one request and larger ones in
parts; when a connection breaks they go on at another server with what is missing. At the end every upload must have
come through, every version that is visible must be one that was sent, whole to its last byte, and nothing of an upload
may be left. Prints the counts; fails otherwise.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.service.scale import database_url
from graftwork.registry.formats.safetensors import build_header
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import verify
from graftwork.settings import Settings, environment
from graftwork.testing.model import Shape
from graftwork.testing.tiny import tiny_family

SHAPE = Shape(layers=2, hidden=256, intermediate=256, heads=4, key_value_heads=4, context=64, rank=4)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PART = 65_536
SMALL_RANK, LARGE_RANK = 2, 64
SERVER = """
import sys
from graftwork.api.application.app import create_app
from graftwork.api.application.server import address, bind, serve
from graftwork.settings import load_settings
listener = bind("127.0.0.1", 0)
serve(create_app(load_settings()), listener, ready=lambda: print(address(listener), flush=True))
"""
Files = dict[str, bytes]


def adapter(rank: int, seed: int) -> Files:
    """An adapter of two modules with weights of its own."""
    rng = np.random.default_rng(seed)
    tensors = []
    for layer in range(SHAPE.layers):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors.append((f"{prefix}.lora_A.weight", "F32", (rank, SHAPE.hidden)))
        tensors.append((f"{prefix}.lora_B.weight", "F32", (SHAPE.hidden, rank)))
    head, header = build_header(tensors, {"format": "pt"})
    data = rng.standard_normal((header.size - header.data_offset) // 4, dtype=np.float32).tobytes()
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    return {CONFIG: json.dumps(config).encode(), WEIGHTS: head + data}


class Servers:
    """Processes that serve one home."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.starting = [threading.Thread(target=self.start) for _ in range(count)]
        for thread in self.starting:
            thread.start()
        for thread in self.starting:
            thread.join()

    def start(self) -> None:
        """Add a server, once it answers."""
        with tempfile.TemporaryFile("w+") as told:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", SERVER],
                env={**os.environ, **environment(self._settings)},
                stdout=subprocess.PIPE,
                stderr=told,
                text=True,
            )
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                process.wait()
                told.seek(0)
                raise RuntimeError(f"a server ended before it answered: {told.read()[-2000:]}")
        with self._lock:
            self._processes[url] = process

    def any(self, rng: random.Random) -> str:
        """The URL of one of them."""
        while True:
            with self._lock:
                urls = list(self._processes)
            if urls:
                return rng.choice(urls)
            time.sleep(0.05)

    def kill(self, rng: random.Random) -> None:
        """End one without warning, and start another one meanwhile."""
        url = self.any(rng)
        with self._lock:
            process = self._processes.pop(url)
        process.kill()
        process.wait()
        starting = threading.Thread(target=self.start)
        starting.start()
        self.starting.append(starting)

    def close(self) -> None:
        """End all of them."""
        for thread in self.starting:
            thread.join()
        for process in self._processes.values():
            process.kill()
            process.wait()


@dataclass(slots=True)
class Log:
    """What the clients sent and saw."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: dict[str, Files] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count."""
        with self.lock:
            self.counts[what] += number


class Client(threading.Thread):
    """Uploads one adapter after the other until it is told to stop, and then finishes the last one."""

    def __init__(self, servers: Servers, log: Log, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}")
        self._servers, self._log, self._number, self._stop_event = servers, log, number, stop
        self._rng = random.Random(number)

    def run(self) -> None:
        """Until the stop."""
        turn = 0
        while not self._stop_event.is_set():
            name = f"kills/{'small' if turn % 2 else 'large'}-{self._number}-{turn}"
            files = adapter(SMALL_RANK if turn % 2 else LARGE_RANK, self._number * 1_000_000 + turn)
            with self._log.lock:
                self._log.sent[name] = files
            (self._small if turn % 2 else self._large)(name, files)
            with self._log.lock:
                self._log.finished.add(name)
            turn += 1

    def _small(self, name: str, files: Files) -> None:
        form = {"name": name, "base": "kills/base", "alias": "prod"}
        parts = [("files", item) for item in files.items()]
        self._ask("POST", "/api/v1/adapters", (200, 201), data=form, files=parts)
        self._log.count("in one request")

    def _large(self, name: str, files: Files) -> None:
        declared = [{"path": path, "size": len(data), "sha256": sha256(data)} for path, data in files.items()]
        body = {"name": name, "base": "kills/base", "aliases": ["prod"], "files": declared}
        upload = self._ask("POST", "/api/v1/uploads", (201,), json=body).json()["id"]
        for path, number in self._missing(upload):
            data = files[path][(number - 1) * PART : number * PART]
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            place = f"/api/v1/uploads/{upload}/files/{path}/parts/{number}"
            self._ask("PUT", place, (200, 201), content=data, headers={"Content-Digest": f"sha-256=:{digest}:"})
            self._log.count("parts")
        self._ask("POST", f"/api/v1/uploads/{upload}/complete", (200, 201))
        self._log.count("in parts")

    def _missing(self, upload: str) -> list[tuple[str, int]]:
        state = self._ask("GET", f"/api/v1/uploads/{upload}", (200,)).json()
        return [
            (file["path"], number)
            for file in state["files"]
            for number in range(1, file["parts"] + 1)
            if number not in {part["number"] for part in file["stored"]}
        ]

    def _ask(self, method: str, path: str, good: tuple[int, ...], **content: Any) -> httpx.Response:
        """The answer of whichever server gives one."""
        while True:
            url = self._servers.any(self._rng)
            try:
                answer = httpx.request(method, url + path, timeout=60, **content)
            except httpx.TransportError:
                self._log.count("broken connections")
                continue
            if answer.status_code in good:
                return answer
            if answer.status_code == 409 and answer.json().get("code") == "upload_conflict":
                self._log.count("waits")  # a server that was asked before is at work on it
                time.sleep(0.05)
                continue
            self._log.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            return answer


def sha256(data: bytes) -> str:
    """Of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def disturb(servers: Servers, log: Log, *, kills: int, clients: int, seed: int) -> None:
    """Kill so many servers one by one while clients are at work."""
    rng = random.Random(seed)
    stop = threading.Event()
    working = [Client(servers, log, number, stop) for number in range(clients)]
    for client in working:
        client.start()
    for _ in range(kills):
        time.sleep(rng.uniform(0.1, 1.5))
        servers.kill(rng)
    stop.set()
    for client in working:
        client.join()


def inspect(registry: Registry, log: Log) -> list[str]:
    """Everything that is wrong."""
    wrong = list(log.wrong)
    seen = set()
    for artifact in registry.catalog.list(namespace="kills", limit=1_000_000):
        name = str(artifact.name)
        if name == "kills/base":
            continue
        seen.add(name)
        versions = registry.catalog.versions(artifact.name)
        if len(versions) != 1:
            wrong.append(f"{name} has {len(versions)} versions")
        verify(registry, versions[0])
        expected = {path: sha256(data) for path, data in log.sent[name].items()}
        found = {
            file.path: sha256(registry.blobs.path(file.sha256, file.generation).read_bytes())
            for file in versions[0].files
        }
        if found != expected:
            wrong.append(f"{name} is not what was sent")
        if dict(artifact.aliases) != {"prod": versions[0].digest}:
            wrong.append(f"{name} has the aliases {dict(artifact.aliases)}")
    wrong += [f"{name} was answered and is not there" for name in sorted(log.finished - seen)]
    wrong += [f"{name} never came through" for name in sorted(log.sent.keys() - log.finished)]
    registry.uploads.sweep(0.0, orphan_seconds=0.0)
    if left := [path for path in (registry.home / "uploads").iterdir() if any(path.iterdir())]:
        wrong.append(f"{len(left)} uploads left files")
    return wrong


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, database_url(given.database, durable=True) as url:
        root = Path(folder)
        settings = Settings(home=root / "home", database_url=url, threads=1, upload_part_bytes=PART)
        family = tiny_family(root / "family", fine_tunes=0, adapters=0, shape=SHAPE)
        with Registry.open(settings) as registry:
            import_source(registry, str(family.base), Name.parse("kills/base"))
            log = Log()
            servers = Servers(settings, given.servers)
            began = time.monotonic()
            try:
                disturb(servers, log, kills=given.kills, clients=given.clients, seed=given.seed)
            finally:
                servers.close()
            print(
                f"{given.kills} servers killed in {time.monotonic() - began:.0f} s; {dict(sorted(log.counts.items()))}"
            )
            wrong = inspect(registry, log)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{len(log.sent)} uploads, {len(wrong)} things wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
