"""Several choices, likelihoods, limits and tenants, through the openai client and through httpx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from graftwork.adapters.engine.sequence import Generation, Request, Sampling
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.api.conftest import Alone, Server

PROMPT = (5, 9, 30, 12)
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 6}
SAMPLED: dict[str, Any] = {"prompt": list(PROMPT), "max_tokens": 8, "temperature": 1.2, "seed": 4}
EXACT: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}


def idle(server: Server) -> bool:
    now = server.engine.statistics()
    return not now.in_flight and now.pages_used == 0 and not any(map(server.residency.pins, server.residency.digests))


def wait_until_idle(server: Server) -> None:
    until(lambda: idle(server))


def test_choices_have_the_seeds_that_follow(openai_client: openai.OpenAI) -> None:
    def ask(seed: int, n: int) -> list[str]:
        answer = openai_client.completions.create(model="tiny/a@v1", **{**SAMPLED, "seed": seed}, n=n, extra_body=EXACT)
        assert [choice.index for choice in answer.choices] == list(range(n))
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8 * n
        return [choice.text for choice in answer.choices]

    together = ask(4, 3)
    assert together == [ask(4 + index, 1)[0] for index in range(3)]
    assert len(set(together)) == 3


def test_a_stream_of_choices_says_what_one_answer_says(openai_client: openai.OpenAI, server: Server) -> None:
    whole = openai_client.completions.create(model="tiny/base", **SAMPLED, n=3, extra_body=EXACT)
    texts, reasons = [""] * 3, [""] * 3
    for piece in openai_client.completions.create(
        model="tiny/base", **SAMPLED, n=3, stream=True, extra_body=EXACT, stream_options={"include_usage": True}
    ):
        for choice in piece.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] += choice.finish_reason or ""
        usage = piece.usage
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == ["length"] * 3
    assert usage is not None
    assert usage.completion_tokens == 24
    wait_until_idle(server)


def test_a_chat_stream_of_choices_gives_each_its_role_and_reason(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {**CHAT, "temperature": 1.0, "seed": 1, "n": 2, "extra_body": {"ignore_eos": True}}
    whole = openai_client.chat.completions.create(model="tiny/base", **options)
    roles, texts, reasons = [], [""] * 2, []
    for piece in openai_client.chat.completions.create(model="tiny/base", **options, stream=True):
        (choice,) = piece.choices
        if choice.delta.role:
            roles.append((choice.index, choice.delta.role))
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons.append((choice.index, choice.finish_reason))
    assert roles == [(0, "assistant"), (1, "assistant")]
    assert sorted(reasons) == [(0, "length"), (1, "length")]
    assert texts == [choice.message.content for choice in whole.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_completion(openai_client: openai.OpenAI, alone: Alone, stream: bool) -> None:
    options: dict[str, Any] = {"prompt": list(PROMPT), "max_tokens": 5, "temperature": 0, "logprobs": 3}
    answer: Any = openai_client.completions.create(model="tiny/a@v2", **options, stream=stream, extra_body=EXACT)
    pieces = [choice for piece in answer for choice in piece.choices] if stream else answer.choices
    logprobs = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    tokens = [token for logprob in logprobs for token in logprob.tokens or []]
    values = [value for logprob in logprobs for value in logprob.token_logprobs or []]
    tops = [top for logprob in logprobs for top in logprob.top_logprobs or []]
    offsets = [offset for logprob in logprobs for offset in logprob.text_offset or []]
    ids = [token for piece in pieces for token in piece.model_dump()["token_ids"]]
    assert ids == alone.greedy("adapter1", PROMPT, 5)
    assert len(tokens) == len(values) == len(tops) == 5
    assert offsets == [sum(map(len, tokens[:index])) for index in range(5)]
    for token, value, top in zip(tokens, values, tops, strict=True):
        assert top[token] == value == max(top.values())
        assert len(top) <= 3


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat(openai_client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {**CHAT, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    answer: Any = openai_client.chat.completions.create(
        model="tiny/base", **options, stream=stream, extra_body={"ignore_eos": True}
    )
    choices = [choice for piece in answer for choice in piece.choices] if stream else answer.choices
    content = [item for choice in choices if choice.logprobs for item in choice.logprobs.content or []]
    assert len(content) == 6
    for item in content:
        assert item.top_logprobs[0].token == item.token
        assert len(item.top_logprobs) == 2
        assert item.top_logprobs[0].logprob == item.logprob <= 0
        assert item.bytes is None or bytes(item.bytes).decode() == item.token


def test_usage_says_what_was_found_in_the_cache(openai_client: openai.OpenAI) -> None:
    prompt = [(7 * index) % 40 + 5 for index in range(40)]
    cached = []
    for model in ("tiny/a@v1", "tiny/a@v1", "tiny/a@v2"):
        answer = openai_client.completions.create(model=model, prompt=prompt, max_tokens=1, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached == [0, 32, 0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_past_its_timeout_says_so(client: httpx.Client, server: Server, stream: bool) -> None:
    body = {"model": "tiny/base", "prompt": [5], "max_tokens": 60, "ignore_eos": True, "timeout": 1e-4}
    response = client.post("/v1/completions", json={**body, "stream": stream})
    assert response.status_code == (200 if stream else 504)
    assert '"code":"deadline_exceeded"' in response.text
    wait_until_idle(server)


def test_a_full_queue_is_429_with_the_seconds_to_wait(
    client: httpx.Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = server.engine
    monkeypatch.setattr(engine._scheduler, "_max_waiting", 0)
    response = client.post("/v1/completions", json={"model": "tiny/a@v1", "prompt": [5], "max_tokens": 1})
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "queue_full"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    monkeypatch.undo()
    wait_until_idle(server)


@pytest.mark.parametrize(
    ("extra", "headers", "expected"),
    [
        ({}, {}, "tiny/base"),
        ({"user": "alice"}, {}, "alice"),
        ({"user": "alice"}, {"X-Graftwork-Tenant": "team"}, "team"),
    ],
)
def test_the_tenant_is_the_header_the_user_or_the_model(
    client: httpx.Client,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, str],
    headers: dict[str, str],
    expected: str,
) -> None:
    seen: list[Request] = []
    submit = server.engine.submit

    def listen(asked: Request) -> Generation:
        seen.append(asked)
        return submit(asked)

    monkeypatch.setattr(server.engine, "submit", listen)
    body = {"model": "tiny/base", "prompt": [5], "max_tokens": 1, **extra}
    assert client.post("/v1/completions", json=body, headers=headers).status_code == 200
    assert [asked.tenant for asked in seen] == [expected]


def test_a_client_that_goes_away_ends_all_its_choices(client: httpx.Client, server: Server) -> None:
    body = {"model": "tiny/a@v3", "prompt": [5], "max_tokens": 60, "ignore_eos": True, "n": 4, "stream": True}
    busy = server.engine.submit(Request([5], Sampling(max_tokens=60, ignore_eos=True), tenant="other"))
    with client.stream("POST", "/v1/completions", json=body) as response:
        for _ in response.iter_lines():
            break
    busy.abort()
    wait_until_idle(server)
