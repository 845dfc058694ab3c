"""An alias moves while requests are in flight, clients go away, and nothing is lost or mixed up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.api.conftest import Alone, Server

PROMPTS = [(5, 9, 30), (12, 40, 7, 7, 21), (33,), (8, 16, 24, 32)]
COUNT = 6
REQUESTS = 300
CONCURRENT = 16
ALIAS = "/api/v1/artifacts/tiny/a/aliases/live"


def body(prompt: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {
        "model": "tiny/a@live",
        "prompt": list(prompt),
        "max_tokens": COUNT,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


def unpinned(server: Server) -> bool:
    return all(server.residency.pins(digest) == 0 for digest in server.residency.digests)


def test_every_answer_is_one_version_and_the_one_it_names(server: Server, alone: Alone) -> None:
    answers_of = {
        server.digest(f"tiny/a@v{number}"): {prompt: alone.greedy(adapter, prompt, COUNT) for prompt in PROMPTS}
        for number, adapter in ((1, "adapter0"), (2, "adapter1"))
    }
    first, second = answers_of.values()
    assert all(first[prompt] != second[prompt] for prompt in PROMPTS)

    async def load() -> list[tuple[tuple[int, ...], httpx.Response]]:
        gate = asyncio.Semaphore(CONCURRENT)
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def ask(number: int) -> tuple[tuple[int, ...], httpx.Response]:
                prompt = PROMPTS[number % len(PROMPTS)]
                async with gate:
                    return prompt, await client.post("/v1/completions", json=body(prompt))

            async def move() -> None:
                for turn in range(10_000):
                    moved = await client.put(ALIAS, json={"version": 1 + turn % 2})
                    assert moved.status_code == 200
                    await asyncio.sleep(0.02)

            moving = asyncio.create_task(move())
            answers = await asyncio.gather(*(ask(number) for number in range(REQUESTS)))
            assert not moving.done()
            moving.cancel()
            return answers

    with server.client() as client:
        assert client.put(ALIAS, json={"version": 1}).is_success
    served: Counter[str] = Counter()
    for prompt, answer in asyncio.run(load()):
        assert answer.status_code == 200
        digest = answer.headers["x-graftwork-version"]
        assert answer.json()["choices"][0]["token_ids"] == answers_of[digest][prompt]
        served[digest] += 1
    assert set(served) == set(answers_of)
    until(lambda: unpinned(server))


def test_a_request_in_flight_finishes_on_the_version_it_began_with(
    server: Server, client: httpx.Client, alone: Alone
) -> None:
    prompt = PROMPTS[0]
    assert client.put(ALIAS, json={"version": 1}).is_success
    with client.stream("POST", "/v1/completions", json=body(prompt, max_tokens=50, stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        with server.client() as other:
            assert other.put(ALIAS, json={"version": 2}).is_success
            moved = other.post("/v1/completions", json=body(prompt))
        pieces = [line for line in lines if line.startswith("data: {")]
    assert response.headers["x-graftwork-version"] == server.digest("tiny/a@v1")
    assert moved.headers["x-graftwork-version"] == server.digest("tiny/a@v2")
    assert moved.json()["choices"][0]["token_ids"] == alone.greedy("adapter1", prompt, COUNT)
    assert len(pieces) == 49


@pytest.fixture
def slow(server: Server, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The engine of `tiny/base` computes nothing until the event is set: requests stay where they are."""
    engine = server.engine
    go = threading.Event()
    step = engine.step

    def gated() -> bool:
        engine._end_overdue()
        if not go.is_set() and engine._scheduler.all():
            time.sleep(0.01)
            return True
        return step()

    monkeypatch.setattr(engine._loop, "_step", gated)
    return go


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_pin(
    server: Server, client: httpx.Client, slow: threading.Event, stream: bool
) -> None:
    assert client.put(ALIAS, json={"version": 1}).is_success
    digest = server.digest("tiny/a@live")

    async def ask_and_leave() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as leaving:
            asking = asyncio.create_task(leaving.post("/v1/completions", json=body(PROMPTS[0], stream=stream)))
            await asyncio.to_thread(until, lambda: server.residency.pins(digest) == 1)
            asking.cancel()

    try:
        asyncio.run(ask_and_leave())
        until(lambda: server.residency.pins(digest) == 0)
    finally:
        slow.set()


def test_a_request_that_is_refused_leaves_no_pin(server: Server, client: httpx.Client) -> None:
    assert client.put(ALIAS, json={"version": 1}).is_success
    refused = client.post("/v1/completions", json=body(PROMPTS[0], max_tokens=1000))
    assert refused.status_code == 400
    assert unpinned(server)
