"""`/v1/models` and `/v1/completions` through the openai client and through httpx."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Alone, Server

PROMPT = (5, 9, 30, 12)
COUNT = 12
GREEDY: dict[str, Any] = {"prompt": list(PROMPT), "max_tokens": COUNT, "temperature": 0}
EXACT: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}


def test_the_models_are_the_bases_checkpoints_and_adapters(openai_client: openai.OpenAI) -> None:
    models = {model.id: model.model_dump() for model in openai_client.models.list()}
    assert {"tiny/base", "tiny/ft0", "tiny/ft1", "tiny/a"} <= set(models)
    adapter = models["tiny/a"]
    assert (adapter["object"], adapter["owned_by"]) == ("model", "tiny")
    assert (adapter["root"], adapter["parent"]) == ("tiny/a@v3", "tiny/base")
    assert models["tiny/base"]["parent"] is None
    assert openai_client.models.retrieve("tiny/a").model_dump() == adapter


@pytest.mark.parametrize(
    ("model", "adapter"),
    [("tiny/base", None), ("tiny/a@v1", "adapter0"), ("tiny/a@v2", "adapter1"), ("tiny/a", "adapter2")],
)
def test_a_completion_is_token_exact_and_names_its_version(
    server: Server, openai_client: openai.OpenAI, alone: Alone, model: str, adapter: str | None
) -> None:
    answer = openai_client.completions.with_raw_response.create(model=model, **GREEDY, extra_body=EXACT)
    assert answer.headers["x-graftwork-version"] == server.digest(model)
    completion = answer.parse()
    (choice,) = completion.choices
    assert choice.model_dump()["token_ids"] == alone.greedy(adapter, PROMPT, COUNT)
    assert choice.finish_reason == "length"
    assert completion.object == "text_completion"
    assert completion.system_fingerprint == f"fp_{server.digest(model)[:12]}"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (len(PROMPT), COUNT)


def test_a_text_is_tokenised_and_what_changes_no_answer_is_taken(openai_client: openai.OpenAI) -> None:
    text = openai_client.completions.create(
        model="tiny/base",
        prompt="abc",
        max_tokens=4,
        temperature=0,
        user="someone",
        best_of=1,
        extra_body={"store": True, "metadata": {"a": "b"}, "repetition_penalty": 1.0},
    )
    assert text.usage is not None
    assert text.usage.prompt_tokens == 3


def test_a_stream_says_the_same_as_one_answer_and_ends_with_usage(openai_client: openai.OpenAI) -> None:
    whole = openai_client.completions.create(model="tiny/a@v1", **GREEDY)
    stream = openai_client.completions.create(
        model="tiny/a@v1", **GREEDY, stream=True, stream_options={"include_usage": True}
    )
    *pieces, last = stream
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage == whole.usage
    assert len({piece.id for piece in pieces}) == 1


def test_a_stream_is_server_sent_events_that_end_with_done(client: httpx.Client, server: Server) -> None:
    with client.stream("POST", "/v1/completions", json={"model": "tiny/a@v2", **GREEDY, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-graftwork-version"] == server.digest("tiny/a@v2")
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert [json.loads(line[6:])["object"] for line in lines[:-1]] == ["text_completion"] * (len(lines) - 1)


def test_a_seed_repeats_a_sampled_answer(openai_client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        options: dict[str, Any] = {"prompt": "hello", "max_tokens": 30, "temperature": 1.5, "top_p": 0.95}
        answer = openai_client.completions.create(
            model="tiny/base", **options, seed=seed, extra_body={"top_k": 40, "ignore_eos": True}
        )
        text: str = answer.choices[0].text
        return text

    assert sample(7) == sample(7)
    assert sample(7) != sample(8)


def test_a_stop_token_ends_the_answer_and_is_not_in_it(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny/a@v1", "prompt": "abc", "max_tokens": 12, "temperature": 0}
    said: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}
    whole = openai_client.completions.create(**options, extra_body=said).choices[0].model_dump()["token_ids"]
    stop = whole[5]
    until = whole.index(stop) + 1
    cut = openai_client.completions.create(**options, extra_body={**said, "stop_token_ids": [stop]}).choices[0]
    before = openai_client.completions.create(**{**options, "max_tokens": max(1, until - 1)}, extra_body=said)
    assert (cut.model_dump()["token_ids"], cut.finish_reason) == (whole[:until], "stop")
    assert cut.text == (before.choices[0].text if until > 1 else "")


def test_one_prompt_alone_in_a_list_is_that_prompt(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny/base", "max_tokens": 4, "temperature": 0}
    prompts: list[Any] = ["abc", [3, 4, 5]]
    for alone in prompts:
        listed = openai_client.completions.create(prompt=[alone], **options)
        plain = openai_client.completions.create(prompt=alone, **options)
        assert listed.choices == plain.choices


def test_a_stop_text_ends_the_answer_and_is_not_in_it(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny/base", **GREEDY, "extra_body": {"ignore_eos": True}}
    whole = openai_client.completions.create(**options).choices[0].text
    stop = whole[3:5]
    cut = openai_client.completions.create(**options, stop=stop).choices[0]
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 129),
        ("min_p", 2),
        ("timeout", 0),
        ("best_of", 3),
        ("echo", True),
        ("logprobs", 21),
        ("suffix", "end"),
        ("logit_bias", {"99999": 1}),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("temperature", -1),
        ("top_p", 0),
        ("max_tokens", 0),
        ("repetition_penalty", 0),
        ("stop_token_ids", "a"),
        ("include_stop_str_in_output", True),
        ("top_k", -2),
        ("max_tokns", 5),
        ("stop", ["a"] * 17),
        ("prompt", ["two", "prompts"]),
        ("prompt", []),
        ("prompt", [99_999]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(openai_client: openai.OpenAI, field: str, value: Any) -> None:
    body = {"model": "tiny/base", "prompt": "abc", "max_tokens": 4, field: value}
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.post("/completions", body=body, cast_to=object)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == "invalid_request"
    assert caught.value.param == field


@pytest.mark.parametrize(("prompt", "param"), [("a" * 500, "prompt"), ("abc", "max_tokens")])
def test_more_tokens_than_the_model_takes_are_refused_as_such(
    openai_client: openai.OpenAI, prompt: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.completions.create(model="tiny/base", prompt=prompt, max_tokens=400)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", param)


def test_a_field_that_may_be_a_misspelling_is_told_so(client: httpx.Client) -> None:
    answer = client.post("/v1/completions", json={"model": "tiny/base", "max_tokns": 5})
    assert answer.json()["error"]["message"] == (
        "max_tokns: there is no such key (did you mean max_tokens?) (there is more at prompt)."
    )
    answer = client.post("/v1/completions", content=b'{"model": "tiny/base"}', headers={"Content-Type": "text/plain"})
    assert answer.json()["error"]["message"] == "Content-Type: expected application/json."


@pytest.mark.parametrize(
    "neutral",
    [
        {"n": 1},
        {"echo": False},
        {"logprobs": None},
        {"presence_penalty": 0},
        {"logit_bias": {}},
        {"top_k": -1},
        {"detokenize": True},
    ],
)
def test_an_unsupported_field_at_its_default_is_no_obstacle(client: httpx.Client, neutral: dict[str, Any]) -> None:
    body = {"model": "tiny/base", "prompt": "abc", "max_tokens": 1, **neutral}
    assert client.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("model", ["tiny/nothing", "tiny/a@nowhere", "not a reference", ""])
def test_an_unknown_model_is_not_found(openai_client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.completions.create(model=model, prompt="abc")
    assert caught.value.code == "model_not_found"
    assert caught.value.type == "invalid_request_error"


def test_a_body_that_is_not_json_and_a_path_that_is_not_there_have_the_same_shape(client: httpx.Client) -> None:
    broken = client.post("/v1/completions", content=b"{", headers={"Content-Type": "application/json"})
    absent = client.get("/v1/nothing")
    assert (broken.status_code, absent.status_code) == (400, 404)
    for response in (broken, absent):
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"model": "tiny/base", "prompt": "é"}'.encode("latin1"), "body: it cannot be read as JSON ('utf-8' codec"),
        (b'{"prompt": ' + b"[" * 100_000, "body: it cannot be read as JSON (maximum recursion depth"),
        (b'{"max_tokens": 1' + b"0" * 5000 + b"}", "body: it cannot be read as JSON (Exceeds the limit"),
        (b'{"model": "tiny/base", "prompt": "a\\ud800"}', "body: a text in it has \\ud800, half of a surrogate pair"),
        (b'{"model": "tiny/\\udfff", "prompt": "a"}', "body: a text in it has \\udfff, half of a surrogate pair"),
    ],
    ids=["latin1", "nested", "long number", "half a prompt", "half a name"],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(client: httpx.Client, body: bytes, message: str) -> None:
    response = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(message)


def test_a_surrogate_pair_is_a_character(client: httpx.Client) -> None:
    body = b'{"model": "tiny/base", "prompt": "\\ud83c\\udf89", "max_tokens": 1}'
    response = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["usage"]["completion_tokens"] == 1


def test_an_unexpected_failure_tells_nothing_of_the_inside(server: Server, client: httpx.Client) -> None:
    host = server.app.state.services.host
    secret = "the inside of the server"
    host.request = lambda model: (_ for _ in ()).throw(RuntimeError(secret))
    try:
        response = client.post("/v1/completions", json={"model": "tiny/base", "prompt": "abc"})
    finally:
        del host.request
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert secret not in response.text
