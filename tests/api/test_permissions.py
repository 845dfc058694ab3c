"""Every route of the application asks who it is, and what belongs to others is not there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.expert_sets import Member, create_expert_set
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family

PUBLIC = {"/healthz", "/readyz"}
FOR_ALL = {
    # what a token without any grant here may ask for; `test_lists_leave_out_...` looks at what they show
    "GET /api/v1/artifacts",
    "GET /api/v1/jobs",
    "GET /api/v1/methods",
    "GET /api/v1/methods/{method}",
    "GET /v1/models",
    "GET /api/v1/marks",
    "GET /api/v1/tags",
    "GET /api/v1/tags/{tag}",
    "GET /api/v1/schedules",
    "GET /api/v1/evaluations",
    "GET /api/v1/uploads",
}
RECIPE = {"merge_method": "linear", "models": [{"model": "acme/base", "parameters": {"weight": 1.0}}]}
ORDER = {"model": "acme/tuned", "base": "acme/base", "name": "acme/new"}
BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/jobs": {"kind": "extract", "payload": ORDER},
    "POST /api/v1/merges": {"recipe": RECIPE, "name": "acme/new"},
    "POST /api/v1/tokens": {"owner": "eve", "grants": {"acme": ["read"]}},
    "PUT /api/v1/quotas/{namespace}": {"max_versions": 1},
    "PUT /api/v1/artifacts/{namespace}/{name}/aliases/{alias}": {"digest": "0" * 64},
    "PUT /api/v1/artifacts/{namespace}/{name}/tags": {"tags": ["nightly"]},
    "POST /v1/completions": {"model": "acme/a", "prompt": "ab"},
    "POST /v1/chat/completions": {"model": "acme/a", "messages": [{"role": "user", "content": "ab"}]},
    "POST /v1/embeddings": {"model": "acme/a", "input": "ab"},
    "POST /v1/classify": {"model": "acme/a", "input": "ab"},
    "POST /api/v1/schedules": {"name": "acme/nightly", "cron": "0 3 * * *", "kind": "extract", "payload": ORDER},
    "POST /api/v1/evaluations": {"model": "acme/a", "dataset": "acme/data"},
    "POST /api/v1/rebuilds/plan": {"ref": "acme/a"},
    "POST /api/v1/rebuilds": {"ref": "acme/a"},
    "POST /api/v1/sweeps": {
        "name": "acme/new",
        "recipe": RECIPE,
        "grid": {"models[0].parameters.weight": [0.5, 1.0]},
        "evaluate": {"dataset": "acme/data", "metric": "exact_match"},
    },
    "POST /api/v1/uploads/{upload_id}/files/{path}/parts/{number}/url": {"sha256": "0" * 64},
    "POST /api/v1/uploads/{upload_id}/files/{path}/parts/{number}/arrived": {"sha256": "0" * 64},
    "POST /api/v1/uploads": {"name": "acme/new", "kind": "adapter", "files": [{"path": "a.safetensors", "size": 9}]},
}
FORMS = {"POST /api/v1/adapters", "POST /api/v1/checkpoints"}
VALUES = {"namespace": "acme", "name": "a", "revision": "v1", "alias": "prod", "path": "adapter_config.json"}


@dataclass(frozen=True)
class House:
    """A server with authentication on which all of `acme` is private, but for the version of `open`."""

    url: str
    registry: Registry
    document: dict[str, Any]
    clients: ExitStack

    def client(self, **grants: list[str]) -> httpx.Client:
        given = Grants.parse({name.replace("everywhere", "*"): scopes for name, scopes in grants.items()})
        owner = "_".join(grants)
        headers = {"Authorization": f"Bearer {self.registry.tokens.create(owner, given)[0]}"}
        return self.clients.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=60))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[House]:
    settings = Settings(home=tmp_path_factory.mktemp("house"), threads=1, auth="required")
    app = create_app(settings)
    with Registry.open(settings) as registry, running(app) as url:
        import_source(registry, str(family.base), Name.parse("acme/base"))
        tuned = str(next(iter(family.fine_tunes.values())))
        import_source(registry, tuned, Name.parse("acme/tuned"), base=Ref.parse("acme/base"))
        for name, adapter in (("acme/a", "adapter0"), ("acme/b", "adapter1"), ("open/c", "adapter2")):
            import_source(registry, str(family.adapters[adapter]), Name.parse(name), base=Ref.parse("acme/base"))
        members = [Member("one", Ref.parse("acme/a")), Member("two", Ref.parse("acme/b"))]
        create_expert_set(registry, Name.parse("open/set"), members, {"kind": "fixed"})
        registry.aliases.set(Name.parse("acme/a"), "prod", registry.catalog.resolve("acme/a").digest)
        for name in ("acme/base", "acme/tuned", "acme/a", "acme/b"):
            registry.repositories.set_private(Name.parse(name), True)
        registry.jobs.enqueue("import", {"source": "hf:a/b", "name": "acme/x"}, owner="acme")
        with ExitStack() as clients:
            yield House(url, registry, app.openapi(), clients)


def routes(house: House) -> list[str]:
    """Every operation, as `GET /api/v1/jobs`."""
    return [
        f"{method.upper()} {path}"
        for path, operations in house.document["paths"].items()
        for method in operations
        if path not in PUBLIC
    ]


def ask(client: httpx.Client, route: str) -> httpx.Response:
    method, _, template = route.partition(" ")
    path = template.replace("{path:path}", "{path}")
    for name, value in VALUES.items():
        path = path.replace("{" + name + "}", value)
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + "1" + rest.partition("}")[2]
    if route in FORMS:
        files = [("files", ("a.safetensors", b"nothing"))]
        return client.request(method, path, data={"name": "acme/new"}, files=files)
    return client.request(method, path, json=BODIES.get(route), headers={"Content-Digest": f"sha-256=:{'A' * 43}=:"})


def test_no_route_answers_without_a_token(house: House) -> None:
    with httpx.Client(base_url=house.url, timeout=60) as nobody:
        answers = {route: ask(nobody, route).status_code for route in routes(house)}
    assert {route: status for route, status in answers.items() if status != 401} == {}


def test_no_route_does_anything_for_a_token_without_a_grant(house: House) -> None:
    """A route that fails this is new: protect it, say in BODIES what it takes, or in FOR_ALL that it is for all."""
    other = house.client(elsewhere=["write", "infer"])
    answers = {route: ask(other, route) for route in routes(house) if route not in FOR_ALL}
    answered = {route: (a.status_code, a.text[:200]) for route, a in answers.items() if a.status_code not in (403, 404)}
    assert not answered, "\n".join(f"{route}: {told}" for route, told in answered.items())
    assert not any("acme/a@" in answer.text or "prod" in answer.text for answer in answers.values())


def test_lists_leave_out_what_belongs_to_others(house: House) -> None:
    other, mine = house.client(elsewhere=["write"]), house.client(acme=["read", "infer"])
    listed = [route for route in routes(house) if route in FOR_ALL and "{method}" not in route]
    assert {"GET /api/v1/artifacts", "GET /v1/models", "GET /api/v1/jobs"} <= set(listed)
    for route in listed:
        answer = ask(other, route)
        assert answer.status_code == 200, route
        assert "acme" not in answer.text, route
    assert {model["id"] for model in mine.get("/v1/models").json()["data"]} >= {"acme/a", "acme/base", "open/c"}
    assert [job["payload"]["name"] for job in mine.get("/api/v1/jobs").json()] == ["acme/x"]


def test_what_bodies_name_is_not_there_for_others(house: House) -> None:
    other = house.client(open=["write", "infer"])
    recipes = [
        {"merge_method": "linear", "models": [{"model": "acme/tuned", "parameters": {"weight": 1.0}}]},
        {"merge_method": "linear", "models": [{"model": "acme/base+acme/a", "parameters": {"weight": 1.0}}]},
    ]
    for recipe in recipes:
        refused = other.post("/api/v1/merges", json={"recipe": recipe, "name": "open/merged"})
        assert refused.status_code == 404, refused.text
    absent = {"recipe": json.loads(json.dumps(recipes[0]).replace("tuned", "nothing")), "name": "open/merged"}
    there = other.post("/api/v1/merges", json={"recipe": recipes[0], "name": "open/merged"}).text
    assert there.replace("tuned", "nothing") == other.post("/api/v1/merges", json=absent).text


def test_output_in_a_namespace_of_others_is_refused(house: House) -> None:
    reader = house.client(acme=["read"], open=["write"])
    for name, status in (("acme/new", 403), ("open/new", 202)):
        answer = reader.post("/api/v1/merges", json={"recipe": RECIPE, "name": name})
        assert answer.status_code == status, answer.text
    job = reader.get(answer.headers["location"]).json()
    assert job["state"] in ("queued", "running", "succeeded")
    assert house.client(open=["admin"]).get(answer.headers["location"]).status_code == 404
    assert house.client(everywhere=["read"]).delete(answer.headers["location"]).status_code == 403


def test_garbage_is_collected_for_administrators_only(house: House) -> None:
    writer, order = house.client(open=["admin"]), {"kind": "gc", "payload": {}}
    schedule = {**order, "name": "open/clean", "cron": "0 3 * * *"}
    for path, body in (("/api/v1/jobs", order), ("/api/v1/schedules", schedule)):
        assert writer.post(path, json=body).status_code == 403
        assert house.client(everywhere=["admin"]).post(path, json=body).status_code in (201, 202)


@pytest.mark.parametrize(
    "model", ["acme/a", "acme/base", "acme/a*0.7+acme/b*0.3", "open/c*0.5+acme/a*0.5", "open/c", "open/set"]
)
def test_everything_that_serves_a_request_must_be_there(house: House, model: str) -> None:
    """`open/c` and `open/set` may be seen; the base of one and the experts of the other may not."""
    body = {"model": model, "prompt": "ab", "max_tokens": 1}
    assert house.client(open=["infer"]).post("/v1/completions", json=body).status_code == 404
    assert house.client(acme=["infer"], open=["infer"]).post("/v1/completions", json=body).status_code == 200


def test_every_part_of_a_mixture_needs_the_scope(house: House) -> None:
    half = house.client(acme=["infer"], open=["read"])
    body = {"model": "acme/a*0.5+open/c*0.5", "prompt": "ab", "max_tokens": 1}
    refused = half.post("/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert "the scope infer in open" in refused.json()["error"]["message"]


def test_whoever_may_infer_need_not_be_able_to_read(house: House) -> None:
    user = house.client(acme=["infer"])
    assert user.post("/v1/completions", json={"model": "acme/a", "prompt": "a", "max_tokens": 1}).status_code == 200
    files = "/api/v1/artifacts/acme/a/versions/v1/files/adapter_model.safetensors"
    assert user.get(files).status_code == 404


def test_quarantined_versions_do_not_serve(house: House) -> None:
    version = house.registry.catalog.resolve("acme/b")
    user = house.client(acme=["infer"], open=["infer"])
    house.registry.marks.quarantine(version, actor="test", reason="wrong data")
    try:
        for model in ("acme/b", "acme/a+acme/b", "open/set"):
            refused = user.post("/v1/completions", json={"model": model, "prompt": "a", "max_tokens": 1})
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_quarantined"), refused.text
    finally:
        house.registry.marks.lift(version, actor="test", reason="right data")
    body = {"model": "acme/b", "prompt": "a", "max_tokens": 1}
    deadline = time.monotonic() + 30  # the engines look every second at what they must not serve
    while (answer := user.post("/v1/completions", json=body)).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status_code == 200
