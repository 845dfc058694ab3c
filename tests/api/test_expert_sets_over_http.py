"""Mixtures and expert sets through the API: uploaded, listed, named in `model`, swapped, and answered token-exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from peft import PeftModel

from graftwork.registry.formats.experts import FORMAT
from graftwork.registry.refs import Name, Ref
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.testing.model import load_model

if TYPE_CHECKING:
    from tests.api.conftest import Server

PROMPT = [5, 9, 30, 12]
COUNT = 10
REFS = {"adapter0": "tiny/a@v1", "adapter1": "tiny/a@v2", "adapter2": "tiny/a@v3"}

Weights = Mapping[str, float]


@pytest.fixture(scope="module")
def mixed(server: Server) -> Callable[[Weights], list[int]]:
    """What PEFT's `add_weighted_adapter(combination_type="cat")` says to the prompt, alone."""
    model: Any = load_model(server.family.base)
    first, *rest = server.family.adapters.items()
    model = PeftModel.from_pretrained(model, str(first[1]), adapter_name=first[0])
    for name, folder in rest:
        model.load_adapter(str(folder), adapter_name=name)

    def greedy(weights: Weights) -> list[int]:
        name = f"mix-{len(model.peft_config)}"
        model.add_weighted_adapter(list(weights), list(weights.values()), name, combination_type="cat")
        model.set_adapter(name)
        ids = torch.tensor([PROMPT])
        options = {"max_new_tokens": COUNT, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        out = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        return [int(token) for token in out[0, len(PROMPT) :]]

    return greedy


def ask(client: httpx.Client, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": PROMPT, "max_tokens": COUNT, "temperature": 0, "ignore_eos": True, **fields}
    return client.post("/v1/completions", json={**body, "return_token_ids": True})


def tokens(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


def made(server: Server, name: str, router: dict[str, Any], **weights: float) -> str:
    """Register a set of the family's adapters. Returns its name."""
    members = [Member(adapter, Ref.parse(ref), weights.get(adapter, 1.0)) for adapter, ref in REFS.items()]
    return str(create_expert_set(server.registry, Name("tiny", name), members, router).name)


def test_a_mixture_is_answered_as_pefts_cat(
    client: httpx.Client, server: Server, mixed: Callable[[Weights], list[int]]
) -> None:
    first = ask(client, "tiny/a@v1*0.7 + tiny/a@v2*(-0.4)")
    assert tokens(first) == mixed({"adapter0": 0.7, "adapter1": -0.4})
    again = ask(client, "tiny/a@v2*-0.4+tiny/a@v1*0.7")
    assert again.headers["x-graftwork-version"] == first.headers["x-graftwork-version"]
    assert first.headers["x-graftwork-version"] in server.residency.digests
    assert server.residency.pins(first.headers["x-graftwork-version"]) == 0
    only = ask(client, "tiny/a@v1*1")
    assert only.headers["x-graftwork-version"] == server.digest("tiny/a@v1")


def test_an_uploaded_set_is_listed_and_served_under_its_alias(
    client: httpx.Client, server: Server, mixed: Callable[[Weights], list[int]]
) -> None:
    weights = {"adapter0": 0.5, "adapter1": 0.25, "adapter2": -1.0}
    experts = [{"name": name, "adapter": server.digest(REFS[name]), "weight": each} for name, each in weights.items()]
    document = json.dumps({"format": FORMAT, "experts": experts}).encode()
    files = [("files", ("experts.json", document))]
    done = client.post("/api/v1/adapters", data={"name": "tiny/uploaded", "alias": "prod"}, files=files)
    assert done.status_code == 201, done.text
    assert done.json()["kind"] == "expert_set"
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert listed["tiny/uploaded"]["parent"] == "tiny/base"
    answer = ask(client, "tiny/uploaded@prod")
    assert tokens(answer) == mixed(weights)
    assert answer.headers["x-graftwork-version"] == done.json()["digest"]


def test_a_task_is_chosen_in_brackets(
    client: httpx.Client, server: Server, mixed: Callable[[Weights], list[int]]
) -> None:
    tasks = {"sum it": [1.0, -0.5, 0.0], "code": [0.0, 0.6, 0.6]}
    name = made(server, "tasks", {"kind": "task-table", "tasks": tasks})
    assert tokens(ask(client, f"{name}[sum it]")) == mixed({"adapter0": 1.0, "adapter1": -0.5})
    assert tokens(ask(client, f"{name}[code]")) == mixed({"adapter1": 0.6, "adapter2": 0.6})
    assert client.put(f"/api/v1/artifacts/{name}/aliases/prod", json={"version": 1}).status_code == 200
    assert tokens(ask(client, f"{name}@prod[code]")) == mixed({"adapter1": 0.6, "adapter2": 0.6})
    assert ask(client, f"{name}@prod").status_code == 400


@pytest.mark.parametrize("granularity", ["token", "request"])
def test_a_routed_set_is_served_and_gives_its_pin_back(
    client: httpx.Client, server: Server, mixed: Callable[[Weights], list[int]], granularity: str
) -> None:
    """A huge temperature weighs all alike, at either granularity: then there is one model that says the same."""
    router = {"kind": "arrow", "granularity": granularity, "temperature": 1e12}
    name = made(server, f"arrow-{granularity}", router)
    answer = ask(client, name, n=2)
    alike = mixed(dict.fromkeys(REFS, 1 / 3))
    assert [choice["token_ids"] for choice in answer.json()["choices"]] == [alike, alike]
    assert server.residency.pins(server.digest(name)) == 0
    streamed = ask(client, name, stream=True)
    assert streamed.text.rstrip().endswith("data: [DONE]")
    assert server.residency.pins(server.digest(name)) == 0


@pytest.mark.parametrize(
    ("model", "status", "told"),
    [
        ("tiny/a*0.5+tiny/base", 400, "a mixture is made of adapters"),
        ("tiny/a*0.5+tiny/nobody", 404, "no artifact tiny/nobody"),
        ("tiny/a*+tiny/a", 400, "is not a part of a mixture"),
        ("tiny/a[task]", 404, "has no tasks"),
        ("tiny/tasks-of-errors[other]", 400, "has no task 'other'; it has one, two"),
        ("tiny/tasks-of-errors", 400, "needs a task"),
    ],
)
def test_what_cannot_be_served_says_why(
    client: httpx.Client, server: Server, model: str, status: int, told: str
) -> None:
    made(server, "tasks-of-errors", {"kind": "task-table", "tasks": {"one": [1, 0, 0], "two": [0, 1, 0]}})
    answer = ask(client, model)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text


def test_an_alias_moves_between_sets(
    client: httpx.Client, server: Server, mixed: Callable[[Weights], list[int]]
) -> None:
    name = made(server, "moving", {}, adapter0=0.5, adapter1=0.0, adapter2=0.0)
    made(server, "moving", {}, adapter0=0.0, adapter1=0.0, adapter2=0.75)
    for version, weights in (("v1", {"adapter0": 0.5}), ("v2", {"adapter2": 0.75})):
        path = f"/api/v1/artifacts/{name}/aliases/prod"
        assert client.put(path, json={"version": version}).status_code == 200
        assert tokens(ask(client, f"{name}@prod")) == mixed(weights)
