"""A real server over a family of tiny random models, and what each model says by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import openai
import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import load_file, save_file

from graftwork.adapters.engine.engine import Engine
from graftwork.adapters.residency.residency import Residency
from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.model import load_adapted_model, load_model
from graftwork.testing.tiny import tiny_family

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
UPLOAD_LIMIT = 1_000_000
ADAPTERS = ("adapter0", "adapter1", "adapter2")

Files = list[tuple[str, tuple[str, bytes]]]


@dataclass(frozen=True)
class Server:
    """A running server, and a second door to its registry: `tiny/base`, `tiny/ft0`, `tiny/ft1`, and `tiny/a`,
    whose versions 1, 2 and 3 are the family's three adapters."""

    url: str
    app: FastAPI
    registry: Registry
    family: Family

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="unused", max_retries=0, timeout=60)

    @property
    def engine(self) -> Engine:
        """The engine of `tiny/base`."""
        engine: Engine = self.app.state.services.host.admit("tiny/base").engine
        return engine

    @property
    def residency(self) -> Residency:
        """Which adapters are loaded beside `tiny/base`, and how often each is pinned."""
        return self.engine.residency

    def digest(self, ref: str) -> str:
        return self.registry.catalog.resolve(ref).digest

    def import_adapter(self, name: str, adapter: str) -> str:
        """Register an adapter of the family without the API. Returns the version's digest."""
        folder = str(self.family.adapters[adapter])
        return import_source(self.registry, folder, Name.parse(name), base=Ref.parse("tiny/base")).digest

    def upload(self, adapter: str) -> Files:
        """An adapter's files as the parts of a form."""
        folder = self.family.adapters[adapter]
        return [("files", (name, (folder / name).read_bytes())) for name in (CONFIG, WEIGHTS)]


class Alone:
    """What a model of the family says by transformers and PEFT, without this project."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._model = cache(self._load)
        self.greedy = cache(self._greedy)

    def _greedy(self, adapter: str | None, prompt: tuple[int, ...], count: int) -> list[int]:
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        output = self._model(adapter).generate(
            ids, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return [int(token) for token in output[0, len(prompt) :]]

    def _load(self, adapter: str | None) -> Any:
        base = self._family.base
        if adapter is None:
            return load_model(base)
        return load_adapted_model(base, self._family.adapters[adapter]).merge_and_unload()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Tiny models whose adapters are loud enough to change every answer."""
    made = tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=2, adapters=len(ADAPTERS))
    for folder in made.adapters.values():
        factors = load_file(folder / WEIGHTS)
        louder = {name: tensor * 30 if "lora_B" in name else tensor for name, tensor in factors.items()}
        save_file(louder, folder / WEIGHTS, {"format": "pt"})
    return made


@pytest.fixture(scope="session")
def alone(family: Family) -> Alone:
    return Alone(family)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[Server]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"), threads=1, memory=50_000_000, max_adapter_bytes=UPLOAD_LIMIT
    )
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        for name, folder in family.fine_tunes.items():
            import_source(registry, str(folder), Name("tiny", name), base=Ref.parse("tiny/base"))
        app = create_app(settings)
        with running(app) as url:
            ready = Server(url, app, registry, family)
            for adapter in ADAPTERS:
                ready.import_adapter("tiny/a", adapter)
            yield ready


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture
def openai_client(server: Server) -> Iterator[openai.OpenAI]:
    with server.openai() as opened:
        yield opened
