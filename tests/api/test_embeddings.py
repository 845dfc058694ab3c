"""Vectors and classifications over HTTP: OpenAI's client, adapters with heads of their own, an alias that moves."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
import torch
from fastapi import FastAPI

from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.encoders import EncoderFamily, encoder_tokenizer, tiny_encoder
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from graftwork.testing.family import Family

TEXTS = ["a first text", "b", "and a longer one, with more in it"]
ALIAS = "/api/v1/artifacts/enc/a/aliases/live"
REQUESTS, CONCURRENT = 120, 16

pytestmark = pytest.mark.filterwarnings("ignore:.*ignore_mismatched_sizes:UserWarning")


@dataclass(frozen=True)
class Service:
    """A server of `enc/base`; `enc/a` whose versions 1 and 2 make vectors; `enc/three` and `enc/five` that classify."""

    url: str
    app: FastAPI
    registry: Registry
    encoders: EncoderFamily

    def digest(self, ref: str) -> str:
        return self.registry.catalog.resolve(ref).digest

    def vector(self, adapter: str | None, text: str) -> torch.Tensor:
        return self.encoders.states(adapter, encoder_tokenizer()(text)).mean(0)

    @property
    def engine(self) -> EncoderEngine:
        engine: EncoderEngine = self.app.state.services.host.admit("enc/base").encoder
        return engine


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[Service]:
    encoders = tiny_encoder(tmp_path_factory.mktemp("encoders"), "bert")
    encoders.add("one", labels=None, seed=1)
    encoders.add("two", labels=None, seed=2)
    encoders.add("three", labels=3, seed=3)
    encoders.add("five", labels=5, seed=4)
    settings = Settings(home=tmp_path_factory.mktemp("home"), threads=1, encoder_tokens=64)
    base = Ref.parse("enc/base")
    with Registry.open(settings) as registry:
        import_source(registry, str(encoders.base), Name.parse("enc/base"))
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        for name, adapter in (("a", "one"), ("a", "two"), ("three", "three"), ("five", "five")):
            import_source(registry, str(encoders.adapters[adapter]), Name("enc", name), base=base)
        app = create_app(settings)
        with running(app) as url:
            yield Service(url, app, registry, encoders)


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=60) as opened:
        yield opened


def test_openais_client_gets_transformers_vectors(service: Service, client: openai.OpenAI) -> None:
    for model, adapter in (("enc/base", None), ("enc/a@v1", "one"), ("enc/a@v2", "two"), ("enc/five", "five")):
        answer = client.embeddings.create(model=model, input=TEXTS)
        assert [each.index for each in answer.data] == [0, 1, 2]
        assert answer.model == model
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text) + 2 for text in TEXTS)
        for text, each in zip(TEXTS, answer.data, strict=True):
            wanted = service.vector(adapter, text)
            torch.testing.assert_close(torch.tensor(each.embedding), wanted, rtol=0, atol=1e-5)


def test_both_encodings_are_the_same_numbers(http: httpx.Client) -> None:
    asked = {"model": "enc/base", "input": TEXTS[0]}
    plain = http.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"]
    coded = http.post("/v1/embeddings", json={**asked, "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert list(struct.unpack(f"<{len(plain)}f", base64.b64decode(coded))) == plain


def test_fewer_dimensions_unit_length_and_tokens_as_input(service: Service, client: openai.OpenAI) -> None:
    ids = encoder_tokenizer()(TEXTS[0])["input_ids"]
    whole = service.vector(None, TEXTS[0])
    answer = client.embeddings.create(
        model="enc/base", input=[ids, ids], dimensions=5, encoding_format="float", extra_body={"normalize": True}
    )
    wanted = torch.nn.functional.normalize(whole[:5], dim=0)
    torch.testing.assert_close(torch.tensor(answer.data[1].embedding), wanted, rtol=0, atol=1e-5)
    cut = client.embeddings.create(model="enc/base", input="a" * 300, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 80
    shorter = client.embeddings.create(model="enc/base", input="a" * 300, extra_body={"truncate_prompt_tokens": 10})
    assert shorter.usage.prompt_tokens == 10


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("embeddings", {"input": "a" * 300}, r"input[0]: it has 302 tokens, and this model reads 80"),
        ("embeddings", {"input": "a", "dimensions": 33}, "dimensions: 33 is given; this model's vectors have 32"),
        ("embeddings", {"input": ["a", ""]}, "input: a text is empty"),
        ("embeddings", {"input": ["a", [1]]}, "input: expected texts or lists of token ids"),
        ("embeddings", {"input": []}, "input: expected a text"),
        ("embeddings", {"input": [[1, 999]]}, "input[0]: its tokens must be from 0 to 259"),
        ("embeddings", {"input": "a", "model": "tiny/base"}, "tiny/base is no encoder"),
        ("classify", {"input": "a"}, "it cannot classify: it has no weights for classifier"),
        ("classify", {"input": "a", "model": "enc/a@v1"}, "have no weights for classifier"),
        ("classify", {"input": {"text": "a"}}, "input: expected texts, or pairs"),
        ("completions", {"prompt": "a"}, "enc/base is an encoder"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "enc/base is an encoder"),
    ],
)
def test_refusals_are_clear_and_leave_no_pin(
    service: Service, http: httpx.Client, path: str, body: dict[str, Any], message: str
) -> None:
    answer = http.post(f"/v1/{path}", json={"model": "enc/base", **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert unpinned(service)


def test_an_unknown_model_is_not_found(http: httpx.Client) -> None:
    answer = http.post("/v1/embeddings", json={"model": "enc/none", "input": "a"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


def test_each_adapter_classifies_with_its_own_labels(service: Service, http: httpx.Client) -> None:
    for name, labels in (("three", 3), ("five", 5)):
        pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
        answer = http.post("/v1/classify", json={"model": f"enc/{name}", "input": [*TEXTS, pair]})
        assert answer.headers["x-graftwork-version"] == service.digest(f"enc/{name}")
        body = answer.json()
        for index, given in enumerate([(TEXTS[0],), (TEXTS[1],), (TEXTS[2],), (TEXTS[0], TEXTS[1])]):
            wanted = torch.softmax(service.encoders.logits(name, encoder_tokenizer()(*given)), 0)
            got = body["data"][index]
            torch.testing.assert_close(torch.tensor(got["probs"]), wanted, rtol=0, atol=1e-5)
            assert got["index"] == index
            assert got["num_classes"] == labels
            assert got["label"] == f"{name}{int(wanted.argmax())}"
            assert got["scores"] == dict(zip([f"{name}{n}" for n in range(labels)], got["probs"], strict=True))
        raw = http.post("/v1/classify", json={"model": f"enc/{name}", "input": "b", "use_activation": False}).json()
        wanted = service.encoders.logits(name, encoder_tokenizer()("b"))
        torch.testing.assert_close(torch.tensor(raw["data"][0]["probs"]), wanted, rtol=0, atol=1e-5)


def test_an_alias_that_moves_under_load_mixes_nothing(service: Service) -> None:
    wanted = {
        service.digest(f"enc/a@v{number}"): {text: service.vector(adapter, text) for text in TEXTS}
        for number, adapter in ((1, "one"), (2, "two"))
    }

    async def load() -> list[tuple[str, httpx.Response]]:
        gate = asyncio.Semaphore(CONCURRENT)
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            assert (await client.put(ALIAS, json={"version": 1})).is_success

            async def ask(number: int) -> tuple[str, httpx.Response]:
                text = TEXTS[number % len(TEXTS)]
                async with gate:
                    return text, await client.post("/v1/embeddings", json={"model": "enc/a@live", "input": text})

            async def move() -> None:
                for turn in range(10_000):
                    assert (await client.put(ALIAS, json={"version": 1 + turn % 2})).is_success
                    await asyncio.sleep(0.01)

            moving = asyncio.create_task(move())
            answers = await asyncio.gather(*(ask(number) for number in range(REQUESTS)))
            assert not moving.done()
            moving.cancel()
            return answers

    served: Counter[str] = Counter()
    for text, answer in asyncio.run(load()):
        assert answer.status_code == 200
        digest = answer.headers["x-graftwork-version"]
        got = torch.tensor(answer.json()["data"][0]["embedding"])
        torch.testing.assert_close(got, wanted[digest][text], rtol=0, atol=1e-5)
        served[digest] += 1
    assert set(served) == set(wanted)
    assert unpinned(service)


def unpinned(service: Service) -> bool:
    residency = service.engine.residency
    return all(residency.pins(digest) == 0 for digest in residency.digests)


def test_a_client_that_goes_away_frees_its_pin(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, digest = service.engine, service.digest("enc/a@v1")
    take = engine._queue.take
    monkeypatch.setattr(engine._queue, "take", lambda budget: [])

    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as leaving:
            asking = asyncio.create_task(leaving.post("/v1/embeddings", json={"model": "enc/a@v1", "input": "a"}))
            await asyncio.to_thread(until, lambda: engine.residency.pins(digest) == 1)
            asking.cancel()

    try:
        asyncio.run(ask_and_leave())
        until(lambda: engine.residency.pins(digest) == 0)
    finally:
        monkeypatch.setattr(engine._queue, "take", take)
