"""A registry of tiny adapters, servers that behave as vLLM does over HTTP, and a gateway in front of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from graftwork.adapters.fleet.host import FleetHost
from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import TINY, tiny_family
from graftwork.testing.vllm_double import Double

ADAPTERS = ("adapter0", "adapter1", "adapter2")
SHAPE = replace(TINY, hidden=128, intermediate=256, context=128)
"""A head of 32, the smallest that vLLM computes on a CPU."""


@dataclass
class Gateway:
    """A gateway before doubles, and a door to its registry."""

    url: str
    app: FastAPI
    registry: Registry
    doubles: list[Double] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    """The doubles' own."""
    stops: list[Callable[[], None]] = field(default_factory=list)
    """Stop one double each."""

    @property
    def host(self) -> FleetHost:
        host: FleetHost = self.app.state.services.host
        return host

    def load(self, model: str, *, threads: int = 4, asked: dict[str, object] | None = None) -> Load:
        return Load(self, {"model": model, "prompt": [1], **(asked or {})}, threads=threads)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def digest(self, ref: str) -> str:
        return self.registry.catalog.resolve(ref).digest

    def engine_name(self, ref: str) -> str:
        version = self.registry.catalog.resolve(ref)
        return f"{version.name}@{version.digest}"

    def in_flight(self) -> int:
        return sum(sum(status.in_flight.values()) for status in self.host.fleet.status())


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("fleet-family"), fine_tunes=0, adapters=3, shape=SHAPE)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Path:
    """A registry with `tiny/base` and `tiny/a`, whose versions 1, 2 and 3 are the family's adapters."""
    folder = tmp_path_factory.mktemp("fleet-home")
    with Registry.open(Settings(home=folder)) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        for adapter in ADAPTERS:
            source = str(family.adapters[adapter])
            import_source(registry, source, Name.parse("tiny/a"), base=Ref.parse("tiny/base"))
    return folder


@pytest.fixture(scope="session")
def open_gateway(home: Path) -> Callable[..., AbstractContextManager[Gateway]]:
    """Opens a gateway before the servers at some URLs; settings may be given."""

    @contextmanager
    def start(urls: list[str], **settings: Any) -> Iterator[Gateway]:
        told = Settings(home=home, engine="vllm", engine_urls=",".join(urls), threads=1, **settings)
        app = create_app(told)
        with running(app) as url, Registry.open(told) as registry:
            yield Gateway(url, app, registry)

    return start


@pytest.fixture
def gateways(open_gateway: Callable[..., AbstractContextManager[Gateway]]) -> Iterator[Callable[..., Gateway]]:
    """Starts a gateway before doubles; settings may be given."""
    with ExitStack() as stack:

        def start(*doubles: Double, **settings: Any) -> Gateway:
            stacks = [stack.enter_context(ExitStack()) for _ in doubles]
            urls = [own.enter_context(running(each.app())) for own, each in zip(stacks, doubles, strict=True)]
            gateway = stack.enter_context(open_gateway(urls, **settings))
            gateway.doubles, gateway.urls, gateway.stops = list(doubles), urls, [own.close for own in stacks]
            return gateway

        yield start


@pytest.fixture
def gateway(gateways: Callable[..., Gateway]) -> Gateway:
    """A gateway before two doubles."""
    return gateways(Double("tiny/base"), Double("tiny/base"))


class Load:
    """Threads that ask until they are told to stop, every other one for a stream, and everything they were answered."""

    def __init__(self, gateway: Gateway, asked: dict[str, object], *, threads: int) -> None:
        self._gateway = gateway
        self._asked = asked
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(threads)]
        self.answers: list[tuple[int, str, str]] = []
        """Status, `X-Graftwork-Version`, body."""

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, index: int) -> None:
        with self._gateway.client() as client:
            while not self._stop.is_set():
                answer = client.post("/v1/completions", json={**self._asked, "stream": index % 2 == 0})
                self.answers.append((answer.status_code, answer.headers.get("X-Graftwork-Version", ""), answer.text))

    @staticmethod
    def tokens(body: str) -> list[int]:
        """The ids of the tokens in an answer, whole or streamed."""
        events = [line.removeprefix("data: ") for line in body.splitlines() if line and not line.endswith("[DONE]")]
        return [token for event in events for token in json.loads(event)["choices"][0]["token_ids"]]
