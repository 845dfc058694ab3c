"""Quarantine, withdrawal, rebuilds, tags and the audit log over HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family

API = "/api/v1"
SUPPORT = f"{API}/artifacts/acme/support"


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("governed"), threads=1, auth="required")


@pytest.fixture
def registry(settings: Settings, family: Family) -> Iterator[Registry]:
    """`acme/bad`, `acme/good` and `acme/fine` are adapters on `open/base`; `acme/support@prod` was merged of them."""
    with Registry.open(settings) as opened:
        import_source(opened, str(family.base), Name.parse("open/base"))
        for name, adapter in zip(("bad", "good", "fine"), family.adapters.values(), strict=True):
            import_source(opened, str(adapter), Name("acme", name), base=Ref.parse("open/base"))
        models = [{"model": f"acme/{name}", "parameters": {"weight": 1}} for name in ("bad", "good", "fine")]
        recipe = {"merge_method": "lora_cat", "models": models, "output": {"aliases": ["prod"]}}
        merge(load_recipe(recipe), registry=opened, settings=settings, name="acme/support")
        yield opened


@pytest.fixture
def url(settings: Settings, registry: Registry) -> Iterator[str]:
    with running(create_app(settings)) as opened:
        yield opened


@pytest.fixture
def client(url: str, registry: Registry) -> Iterator[httpx.Client]:
    """An administrator's."""
    secret, _ = registry.tokens.create("ada", Grants.parse({"*": ["admin"]}))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as opened:
        yield opened


def wait_for(client: httpx.Client, location: str) -> httpx.Response:
    for _ in range(600):
        job = client.get(location)
        if job.json()["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError(job.text)


def ask(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "prompt": "a", "max_tokens": 1}
    return client.post("/v1/completions", json=body)


def test_a_poisoned_adapter_is_stopped_rebuilt_and_withdrawn(client: httpx.Client) -> None:
    assert ask(client, "acme/support@prod").status_code == 200
    bad = f"{API}/artifacts/acme/bad/versions/v1"
    done = client.put(f"{bad}/quarantine", json={"reason": "poisoned"})
    assert done.status_code == 200, done.text
    assert [(mark["ref"], mark["cause"]) for mark in done.json()["marked"]] == [
        ("acme/bad@v1", None),
        ("acme/support@v1", "acme/bad@v1"),
    ]
    assert [f"{alias['name']}@{alias['alias']}" for alias in done.json()["aliases"]] == ["acme/support@prod"]
    for _ in range(100):
        if (refused := ask(client, "acme/support@prod")).status_code != 200:
            break
        time.sleep(0.05)
    assert "quarantined" in refused.json()["error"]["message"]
    assert client.delete(bad).json()["code"] == "version_in_use"

    nodes = client.get(f"{API}/artifacts/acme/bad/lineage", params={"direction": "down"}).json()["nodes"]
    assert [(node["ref"], [mark["reason"] for mark in node["marks"]]) for node in nodes] == [
        ("acme/bad@v1", ["poisoned"]),
        ("acme/support@v1", ["poisoned"]),
    ]

    plan = client.post(f"{API}/rebuilds/plan", json={"ref": "acme/bad@v1"}).json()
    assert (plan["rebuilt"], plan["steps"][0]["left_out"]) == (1, ["acme/bad@v1"])
    queued = client.post(f"{API}/rebuilds", json={"ref": "acme/bad@v1", "move_aliases": True})
    assert queued.status_code == 202, queued.text
    job = wait_for(client, queued.headers["Location"]).json()
    assert job["error"] is None
    assert job["result"]["steps"][0]["made"] == ["acme/support@v2"]
    assert ask(client, "acme/support@prod").status_code == 200

    for version in (f"{SUPPORT}/versions/v1", bad):
        gone = client.delete(version, params={"reason": "poisoned"})
        assert {mark["mark"] for mark in gone.json()} == {"quarantined", "withdrawn"}
        assert client.get(version).status_code == 410
    page = client.get(f"{API}/marks", params={"mark": "withdrawn", "limit": 1})
    rest = client.get(page.links["next"]["url"])
    assert [mark["ref"] for mark in (*page.json(), *rest.json())] == ["acme/support@v1", "acme/bad@v1"]
    assert "next" not in rest.links
    wrong = client.get(f"{API}/marks", params={"after": "x"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")

    log = client.get(f"{API}/audit", params={"target": "acme", "limit": 4})
    assert [(entry["actor"], entry["action"], entry["target"]) for entry in log.json()] == [
        ("ada", "version.withdraw", "acme/bad@v1"),
        ("ada", "version.withdraw", "acme/support@v1"),
        ("ada", "alias.move", "acme/support@prod"),
        ("ada", "version.register", "acme/support@v2"),
    ]
    assert log.json()[0]["request"] is not None
    before = client.get(log.links["next"]["url"]).json()
    assert before[0]["action"] == "version.quarantine"
    only = client.get(f"{API}/audit", params={"action": "version.lift"}).json()
    assert only == []


def test_a_quarantine_can_be_lifted(client: httpx.Client) -> None:
    place = f"{SUPPORT}/versions/prod/quarantine"
    assert client.delete(place).json()["code"] == "invalid_request"
    client.put(place, json={})
    assert [mark["ref"] for mark in client.get(f"{API}/marks").json()] == ["acme/support@v1"]
    moved = client.put(f"{SUPPORT}/aliases/beta", json={"version": "v1"})
    assert (moved.status_code, moved.json()["code"]) == (409, "version_quarantined")
    assert [mark["ref"] for mark in client.delete(place, params={"reason": "fine"}).json()] == ["acme/support@v1"]
    assert client.get(f"{API}/marks").json() == []
    moved = client.put(f"{SUPPORT}/aliases/beta", json={"version": "v1"})
    assert moved.status_code == 200, moved.text


def test_artifacts_are_found_by_their_tags(client: httpx.Client) -> None:
    assert client.get(f"{SUPPORT}/tags").json() == {"name": "acme/support", "tags": []}
    put = client.put(f"{SUPPORT}/tags", json={"tags": ["nightly", "german"]})
    assert put.json()["tags"] == ["german", "nightly"]
    assert client.get(f"{API}/tags").json() == {"german": 1, "nightly": 1}
    assert client.get(f"{API}/tags/nightly").json() == ["acme/support"]
    assert client.put(f"{SUPPORT}/tags", json={"tags": ["no spaces"]}).json()["code"] == "invalid_name"


def test_who_may_only_read_changes_nothing_and_sees_no_log(url: str, registry: Registry) -> None:
    secret, _ = registry.tokens.create("eve", Grants.parse({"other": ["write"], "acme": ["read"]}))
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as eve:
        answers = [
            eve.put(f"{SUPPORT}/versions/v1/quarantine", json={}),
            eve.delete(f"{SUPPORT}/versions/v1/quarantine"),
            eve.delete(f"{SUPPORT}/versions/v1"),
            eve.put(f"{SUPPORT}/tags", json={"tags": []}),
            eve.get(f"{API}/audit"),
        ]
        assert [answer.status_code for answer in answers] == [403] * len(answers)
        refused = eve.post(f"{API}/rebuilds", json={"ref": "acme/bad"})
        assert refused.status_code == 422
        assert "eve may not write in acme" in refused.json()["detail"]
