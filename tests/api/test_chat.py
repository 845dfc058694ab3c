"""`/v1/chat/completions`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.model import load_model
from graftwork.testing.tokenizer import character_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from graftwork.testing.family import Family
    from tests.api.conftest import Alone, Server

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 10, "temperature": 0}


def test_an_answer_is_what_the_model_says_after_its_template(
    server: Server, openai_client: openai.OpenAI, alone: Alone
) -> None:
    tokenizer = character_tokenizer(context=64)
    prompt = tuple(tokenizer.encode("abc"))
    expected = tokenizer.decode(alone.greedy("adapter0", prompt, 10), skip_special_tokens=True)
    answer = openai_client.chat.completions.with_raw_response.create(
        model="tiny/a@v1", **CHAT, extra_body={"ignore_eos": True}
    )
    assert answer.headers["x-graftwork-version"] == server.digest("tiny/a@v1")
    completion = answer.parse()
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content == expected
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(prompt)


def test_a_stream_gives_the_role_the_text_the_reason_and_the_usage(openai_client: openai.OpenAI) -> None:
    whole = openai_client.chat.completions.create(model="tiny/a@v2", **CHAT)
    first, *pieces, last = openai_client.chat.completions.create(
        model="tiny/a@v2", **CHAT, stream=True, stream_options={"include_usage": True}
    )
    assert first.choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage


def test_parts_of_text_are_one_text(client: httpx.Client) -> None:
    said: dict[str, Any] = {"annotations": [], "logprobs": [], "prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [{"type": "text", "text": "a", "cache_control": None}, {"type": "output_text", "text": "bc", **said}]
    body = {"model": "tiny/base", **CHAT, "messages": [{"role": "user", "content": parts}]}
    answer = client.post("/v1/chat/completions", json=body).json()
    whole = client.post("/v1/chat/completions", json={"model": "tiny/base", **CHAT}).json()
    assert answer["choices"] == whole["choices"]


def test_turns_are_taken_as_clients_send_them_back(openai_client: openai.OpenAI) -> None:
    """OpenAI's client dumps all the fields of an answer; others add their own, with nothing in them."""
    answer = openai_client.chat.completions.create(model="tiny/base", **CHAT)
    said = answer.choices[0].message
    first = {"role": "user", "content": "abc", "name": "ada"}
    more: dict[str, Any] = {
        "tool_calls": [],
        "annotations": [],
        "reasoning_content": None,
        "provider_specific_fields": None,
    }
    last = {"role": "tool", "content": "d", "tool_call_id": "call_1"}
    turns: Any = [[first, {"role": "assistant", "content": said.content}, last]]
    turns += [[first, turn, last] for turn in (said, said.model_dump(), said.model_dump() | more)]
    replies = [
        openai_client.chat.completions.create(model="tiny/base", max_tokens=4, temperature=0, messages=messages)
        for messages in turns
    ]
    assert len({reply.choices[0].message.content for reply in replies}) == 1


def test_without_a_limit_the_answer_fills_the_context(client: httpx.Client) -> None:
    body = {"model": "tiny/base", "messages": CHAT["messages"], "ignore_eos": True}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["total_tokens"] == 64


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "text": ""}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["abc"]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": {}, "text": "abc"}]}]}, "messages[0].content"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]}]},
            "messages[0].tool_calls",
        ),
        ({"messages": [{"role": "assistant", "content": "a", "audio": {"id": "audio_1"}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "content": "a", "refusal": "no"}]}, "messages[0].refusal"),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning": "b"}]}, "messages[0].reasoning"),
        ({"messages": [{"role": "wizard", "content": "abc"}]}, "messages[0].role"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [{"role": "user", "content": "a" * 200}]}, "messages"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    openai_client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.post("/chat/completions", body={"model": "tiny/base", **CHAT, **change}, cast_to=object)
    assert caught.value.param == param


def test_a_key_that_text_parts_do_not_have_is_refused_by_name(client: httpx.Client) -> None:
    part = {"type": "text", "text": "abc", "cache_control": {"type": "ephemeral"}}
    body = {"model": "tiny/base", "messages": [{"role": "user", "content": [part]}]}
    answer = client.post("/v1/chat/completions", json=body)
    told = "messages[0].content: a text part has a type and a text, and there is no such key as cache_control."
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, told)


def test_an_answer_of_no_given_length_ends_where_the_cache_does(family: Family, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, threads=1, cache_bytes=10_000)
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
    with running(create_app(settings)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        turns: Any = CHAT["messages"]
        asked = {"ignore_eos": True}
        answer = client.chat.completions.create(model="tiny/base", messages=turns, extra_body=asked)
        assert answer.usage is not None
        room = answer.usage.total_tokens
        with pytest.raises(openai.BadRequestError, match=rf"the cache has room for {room} \(cache_bytes\)"):
            client.chat.completions.create(model="tiny/base", messages=turns, max_tokens=room)


def test_a_model_without_a_chat_template_says_so(server: Server, openai_client: openai.OpenAI, tmp_path: Path) -> None:
    tokenizer = character_tokenizer(context=64)
    tokenizer.chat_template = None
    load_model(server.family.base).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    import_source(server.registry, str(tmp_path), Name.parse("tiny/speechless"))
    with pytest.raises(openai.BadRequestError) as caught:
        openai_client.chat.completions.create(model="tiny/speechless", **CHAT)
    assert "no chat template" in caught.value.message
    assert caught.value.param == "model"


@pytest.fixture
def templated(server: Server, tmp_path: Path) -> Callable[[str, Any], str]:
    """`tiny/base` with another chat template, under a name."""

    def make(name: str, template: Any) -> str:
        tokenizer = character_tokenizer(context=64)
        tokenizer.chat_template = template
        load_model(server.family.base).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        import_source(server.registry, str(tmp_path / name), Name("tiny", name))
        return f"tiny/{name}"

    return make


@pytest.mark.parametrize(
    ("name", "template", "reason"),
    [
        ("strict", "{{ raise_exception('only users speak here') }}", "only users speak here"),
        ("sum", "{{ 1 + messages[0].content }}", "unsupported operand"),
        ("large", "{% for i in range(99999999) %}a{% endfor %}", "Range too big"),
        ("choice", {"rag": "a", "tool_use": "b"}, "no template is named 'default'|multiple chat templates"),
    ],
)
def test_a_template_that_refuses_the_messages_is_a_bad_request(
    name: str, template: Any, reason: str, templated: Callable[[str, Any], str], openai_client: openai.OpenAI
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"chat template refuses them .*({reason})"):
        openai_client.chat.completions.create(model=templated(name, template), **CHAT)


def test_a_template_is_told_what_the_request_says_to_it(
    templated: Callable[[str, Any], str], openai_client: openai.OpenAI
) -> None:
    model = templated("thinking", "{{ messages[0].content }}{% if enable_thinking %}aaaa{% endif %}")

    def prompt_tokens(told: dict[str, Any] | None) -> int:
        answer = openai_client.chat.completions.create(model=model, **CHAT, extra_body={"chat_template_kwargs": told})
        assert answer.usage is not None
        return int(answer.usage.prompt_tokens)

    assert prompt_tokens({"enable_thinking": True}) == prompt_tokens({"enable_thinking": False}) + 4
    assert prompt_tokens(None) == prompt_tokens({})
    with pytest.raises(openai.BadRequestError, match="chat_template is not for the template"):
        prompt_tokens({"chat_template": "abc"})


def test_what_a_model_would_have_it_sampled_by_holds_where_a_request_says_nothing(
    server: Server, templated: Callable[[str, Any], str], openai_client: openai.OpenAI, tmp_path: Path
) -> None:
    template = "{{ messages[0].content }}"
    plain = templated("plain", template)
    preferring = tmp_path / "plain" / "generation_config.json"
    preferring.write_text(json.dumps({"do_sample": True, "top_k": 1, "repetition_penalty": 1.7}))
    server_side = "tiny/preferring"
    import_source(server.registry, str(tmp_path / "plain"), Name.parse(server_side))

    def answer(model: str, **said: Any) -> str | None:
        turns: Any = CHAT["messages"]
        asked = {"ignore_eos": True, **said}
        completion = openai_client.chat.completions.create(model=model, messages=turns, max_tokens=20, extra_body=asked)
        return completion.choices[0].message.content

    greedy = answer(plain, temperature=0)
    penalised = answer(plain, temperature=0, repetition_penalty=1.7)
    assert greedy != penalised
    assert answer(server_side) == penalised
    assert answer(server_side, repetition_penalty=1.0) == greedy
