"""The gateway before servers that behave as vLLM does."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

from graftwork.api.dependencies.auth import LOCAL_OWNER
from graftwork.api.gateway import forward
from graftwork.api.gateway.relay import Usage
from graftwork.api.middleware.limits import Rates
from graftwork.testing.vllm_double import TOKENS, Double, event
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.fleet.conftest import Gateway

    Gateways = Callable[..., Gateway]

COMPLETION = {"model": "tiny/a@v1", "prompt": [1]}


def test_a_version_is_asked_for_by_its_digest_and_answered_under_the_clients_name(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=COMPLETION)
    name = gateway.engine_name("tiny/a@v1")
    assert answer.json() == {"id": "cmpl-1", "model": "tiny/a@v1", "choices": [{"index": 0, "text": name}]}
    assert answer.headers["X-Graftwork-Version"] == gateway.digest("tiny/a@v1")
    assert [double.asked for double in gateway.doubles if double.asked] == [[name]]


def test_a_body_that_is_no_request_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_BODY_BYTES", 100)
    with gateway.client() as client:
        answers = [client.post("/v1/completions", content=body) for body in (b"{", b"[]", b"{}", b" " * 101)]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 413]
    said = [answer.json()["error"]["message"] for answer in answers]
    parts = ("it is not JSON", "it is not a JSON object", "the name of a model", "100 bytes")
    assert all(part in text for part, text in zip(parts, said, strict=True)), said


def test_a_stream_passes_byte_for_byte_but_for_the_models_name(gateway: Gateway) -> None:
    name = gateway.engine_name("tiny/a@v2")
    events = []
    for index in range(TOKENS):
        own = json.dumps(event(name, index), separators=(",", ":"))
        # the text of the event quotes the same member, and must stay
        named = own.replace(f'"model":"{name}"', '"model":"tiny/a@v2"', 1)
        events.append(f"data: {named}\n\n")
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", json={"model": "tiny/a@v2", "messages": [], "stream": True})
    assert answer.text == "".join([*events, "data: [DONE]\n\n"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["X-Graftwork-Version"] == gateway.digest("tiny/a@v2")


def test_the_tokens_of_answers_are_counted_as_they_come(gateways: Gateways) -> None:
    gateway = gateways(Double("tiny/base"), tokens_per_minute=60)
    rates: Rates = gateway.app.state.services.token_rates
    with gateway.client() as client:
        stream = client.post("/v1/completions", json={**COMPLETION, "stream": True, "max_tokens": 50})
        assert stream.text.count("data: {") == TOKENS
        until(lambda: gateway.in_flight() == 0)
        assert rates.take(LOCAL_OWNER, 60 - TOKENS) == 60 - TOKENS
        refused = client.post("/v1/completions", json={**COMPLETION, "max_tokens": 20})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
        rates.give(LOCAL_OWNER, 20)
        assert client.post("/v1/completions", json={**COMPLETION, "max_tokens": 20}).status_code == 200
        assert rates.take(LOCAL_OWNER, 20) == 20


def test_an_answer_says_what_it_used() -> None:
    usage = Usage(7)
    usage.hear(b'data: {"text": "a"}\n\ndata: {"text": "\\"total_tokens\\": 99"}\n\n')
    assert usage.tokens == 9
    usage.hear(b'data: {"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 8}}\n\ndata: [DONE]\n\n')
    usage.hear(b'data: {"text": "b"}\n\n')
    assert usage.tokens == 8


def test_the_base_goes_to_the_servers_under_their_own_name_for_it(gateways: Gateways) -> None:
    gateway = gateways(Double("tiny/base@v1"))
    with gateway.client() as client:
        answer = client.post("/v1/completions", json={"model": "tiny/base", "prompt": [1]})
    assert (answer.json()["model"], gateway.doubles[0].asked) == ("tiny/base", ["tiny/base@v1"])


def test_an_adapter_stays_where_it_is_and_the_others_go_elsewhere(gateways: Gateways) -> None:
    gateway = gateways(*(Double("tiny/base") for _ in range(3)))
    with gateway.client() as client:
        for _ in range(4):
            for version in ("v1", "v2", "v3"):
                client.post("/v1/completions", json={**COMPLETION, "model": f"tiny/a@{version}"}).raise_for_status()
    homes = {name: [d.asked.count(name) for d in gateway.doubles] for d in gateway.doubles for name in d.asked}
    assert [sorted(counts) for counts in homes.values()] == [[0, 0, 4]] * 3


@pytest.mark.parametrize("status", [500, 429, 503, 404])
def test_another_server_answers_when_one_fails(gateway: Gateway, status: int) -> None:
    with gateway.client() as client:
        client.post("/v1/completions", json=COMPLETION)
        first, second = sorted(gateway.doubles, key=lambda double: -len(double.asked))
        first.status = status
        answer = client.post("/v1/completions", json=COMPLETION)
    assert (answer.status_code, len(first.asked), len(second.asked)) == (200, 2, 1)


def test_a_server_that_is_gone_is_left_out_until_it_is_back(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.post("/v1/completions", json=COMPLETION)
        first, second = sorted(gateway.doubles, key=lambda double: -len(double.asked))
        gateway.stops[gateway.doubles.index(first)]()
        assert client.post("/v1/completions", json=COMPLETION).status_code == 200
        told = [replica["is_ready"] for replica in client.get("/api/v1/fleet").json()]
        assert told == [double is second for double in gateway.doubles]
        gateway.stops[gateway.doubles.index(second)]()
        gone = client.post("/v1/completions", json=COMPLETION)
    assert (gone.status_code, gone.headers.get("Retry-After")) == (503, "1"), gone.text
    assert gateway.urls[gateway.doubles.index(second)] in gone.json()["error"]["message"]


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_broken_stream_is_retried_only_before_its_first_byte(gateway: Gateway, tokens: int) -> None:
    with gateway.client() as client:
        client.post("/v1/completions", json=COMPLETION)
        first, second = sorted(gateway.doubles, key=lambda double: -len(double.asked))
        first.breaks_after = tokens
        answer = client.post("/v1/completions", json={**COMPLETION, "stream": True})
    lines = [line for line in answer.text.splitlines() if line]
    if tokens == 0:
        assert (lines[-1], len(lines), len(second.asked)) == ("data: [DONE]", TOKENS + 1, 1)
    else:
        assert "error" in json.loads(lines[-1].removeprefix("data: "))
        assert (len(lines), len(second.asked)) == (tokens + 1, 0)
    until(lambda: gateway.in_flight() == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_work_on_the_server(gateways: Gateways, stream: bool) -> None:
    double = Double("tiny/base", token_seconds=0.6)
    gateway = gateways(double)
    url, body = httpx.URL(gateway.url), json.dumps({**COMPLETION, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((url.host, url.port)) as client:
        client.sendall(head.encode() + body)
        until(lambda: double.asked)
        if stream:
            assert client.recv(1)
    until(lambda: double.aborted == 1)
    until(lambda: gateway.in_flight() == 0)
    assert double.answered.total() == 0


def test_full_servers_are_429_and_requests_are_counted_by_version(gateways: Gateways) -> None:
    double = Double("tiny/base", token_seconds=0.1)
    gateway = gateways(double, engine_requests=2)
    with gateway.client() as client, gateway.load("tiny/a@v1", threads=2):
        until(lambda: gateway.host.fleet.in_flight(gateway.digest("tiny/a@v1")) == 2)
        full = client.post("/v1/completions", json=COMPLETION)
    assert full.status_code == 429 or full.status_code == 200
    until(lambda: gateway.in_flight() == 0)


def test_flips_under_load_fail_nobody_and_each_answer_is_of_one_version(gateway: Gateway) -> None:
    for double in gateway.doubles:
        double.token_seconds = 0.002
    digests = [gateway.digest(f"tiny/a@v{number}") for number in (1, 2, 3)]
    path = "/api/v1/artifacts/tiny/a/aliases/live"
    with gateway.client() as client:
        made = client.put(path, json={"version": "v1"})
        assert made.status_code == 200, made.text
        with gateway.load("tiny/a@live") as load:
            for flip in range(30):
                client.put(path, json={"version": f"v{flip % 3 + 1}"}).raise_for_status()
    assert {status for status, _, _ in load.answers} == {200}
    seen = set()
    for _, version, body in load.answers:
        assert [digest for digest in digests if digest in body] == [version]
        assert '"model":"tiny/a@live"' in body.replace('": "', '":"')
        seen.add(version)
    assert seen == set(digests)
    until(lambda: gateway.in_flight() == 0)


def test_an_alias_moves_only_after_every_server_completed_with_the_version(gateway: Gateway) -> None:
    first, second = gateway.doubles
    name = gateway.engine_name("tiny/a@v2")
    path = "/api/v1/artifacts/tiny/a/aliases/probed"
    second.refuses[name] = "its rank is too large"
    with gateway.client() as client:
        client.put(path, json={"version": "v1"}).raise_for_status()
        refused = client.put(path, json={"version": "v2"})
        assert refused.json()["code"] == "adapter_probe_failed"
        assert "its rank is too large" in refused.json()["detail"]
        assert client.get(path).json()["digest"] == gateway.digest("tiny/a@v1")
        second.refuses.clear()
        client.put(path, json={"version": "v2"}).raise_for_status()
    assert (first.answered[name], second.answered[name]) == (2, 1)


def test_mixtures_are_refused_by_name(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/completions", json={**COMPLETION, "model": "tiny/a@v1*0.5+tiny/a@v2*0.5"})
    assert answer.status_code == 404
    assert "mixture" in answer.json()["error"]["message"]


def test_an_adapter_beyond_the_servers_rank_is_refused_with_the_reason(gateways: Gateways) -> None:
    gateway = gateways(Double("tiny/base"), max_lora_rank=4)
    with gateway.client() as client:
        answer = client.post("/v1/completions", json={**COMPLETION, "model": "tiny/a@v3"})
        moved = client.put("/api/v1/artifacts/tiny/a/aliases/large", json={"version": "v3"})
    assert answer.json()["error"]["code"] == moved.json()["code"] == "unservable_adapter"
    assert "its rank is 6, and the engine takes ranks up to 4" in moved.json()["detail"]
    assert gateway.doubles[0].asked == []


def test_a_server_of_an_unknown_base_is_not_used(gateways: Gateways) -> None:
    gateway = gateways(Double("/models/llama"))
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=COMPLETION)
    assert answer.status_code == 503
    assert "--served-model-name" in answer.json()["error"]["message"]


def test_the_base_may_be_named_by_a_setting(gateways: Gateways) -> None:
    gateway = gateways(Double("/models/llama"), engine_base="tiny/base")
    with gateway.client() as client:
        assert client.post("/v1/completions", json={**COMPLETION, "model": "tiny/base"}).json()["model"] == "tiny/base"
    assert gateway.doubles[0].asked == ["/models/llama"]


def test_what_the_client_did_wrong_is_answered_as_the_server_says_it(gateway: Gateway) -> None:
    for double in gateway.doubles:
        double.refuses[gateway.engine_name("tiny/a@v1")] = "temperature must be non-negative"
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=COMPLETION)
        broken = client.post("/v1/completions", content=b"{")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "temperature must be non-negative")
    assert (broken.status_code, broken.json()["error"]["param"]) == (400, "body")
    assert sum(len(double.asked) for double in gateway.doubles) == 1
