"""Merges over HTTP: a recipe goes in, a job is polled, a version with its lineage comes out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Server

RECIPE: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "base_model": "tiny/base",
    "models": [
        {"model": "tiny/ft0", "parameters": {"weight": 0.5}},
        {"model": "tiny/ft1", "parameters": {"weight": 0.25}},
    ],
}


def poll(client: httpx.Client, location: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        job: dict[str, Any] = client.get(location).json()
        if job["state"] not in ("queued", "running") or time.monotonic() > deadline:
            return job
        time.sleep(0.05)


def test_a_merge_becomes_a_version_with_its_lineage_that_answers(server: Server, client: httpx.Client) -> None:
    accepted = client.post("/api/v1/merges", json={"recipe": RECIPE, "name": "merged/one"})
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/api/v1/jobs/{accepted.json()['id']}"
    job = poll(client, accepted.headers["location"])
    assert (job["state"], job["progress"], job["error"]) == ("succeeded", 1.0, None)
    version = client.get(f"/api/v1/artifacts/merged/one/versions/{job['result']['digest']}").json()
    parents = {(parent["ref"], parent["relation"]): parent["weight"] for parent in version["parents"]}
    assert parents["tiny/ft0@v1", "merge_input"] == 0.5
    assert parents["tiny/ft1@v1", "merge_input"] == 0.25
    assert ("tiny/base@v1", "merge_base") in parents
    answer = client.post("/v1/completions", json={"model": "merged/one", "prompt": "abc", "max_tokens": 2})
    assert answer.headers["x-graftwork-version"] == version["digest"]
    assert job["id"] in {listed["id"] for listed in client.get("/api/v1/jobs", params={"state": "succeeded"}).json()}


def test_a_recipe_may_be_yaml(client: httpx.Client) -> None:
    recipe = """
        merge_method: linear
        models:
        - {model: tiny/ft0, parameters: {weight: 1}}
        - {model: tiny/ft1, parameters: {weight: 1}}
    """
    accepted = client.post("/api/v1/merges", json={"recipe": recipe, "name": "merged/yaml"})
    assert poll(client, accepted.headers["location"])["state"] == "succeeded"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"merge_method": "no_such_method"}, 422, "unknown_method"),
        ({"parameters": {"desnity": 0.5}}, 422, "unknown_parameter"),
        ({"merge_method": "ties", "parameters": {"density": 2}}, 422, "invalid_parameter"),
        ({"merge_method": "ties", "parameters": {"density": -1}}, 422, "invalid_parameter"),
        ({"base_model": "tiny/nothing"}, 404, "artifact_not_found"),
        ({"base_model": "/etc"}, 404, "source_not_found"),
        ({"surprise": 1}, 422, "invalid_recipe"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_is_refused_at_once(
    client: httpx.Client, change: dict[str, Any], status: int, code: str
) -> None:
    before = client.get("/api/v1/jobs").json()
    refused = client.post("/api/v1/merges", json={"recipe": {**RECIPE, **change}, "name": "merged/bad"})
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert client.get("/api/v1/jobs").json() == before
    assert client.get("/api/v1/artifacts/merged/bad").status_code == 404


@pytest.mark.parametrize(
    ("kind", "payload", "meant"),
    [
        ("gc", {"aply": True}, "apply"),
        ("extract", {"model": "a/b", "base": "a/c", "name": "a/d", "ranks": 3}, "rank"),
        ("import", {"source": "hf:a/b", "name": "a/b", "alias": "prod"}, "aliases"),
    ],
)
def test_a_key_that_a_kind_of_job_does_not_know_is_refused(
    client: httpx.Client, kind: str, payload: dict[str, Any], meant: str
) -> None:
    for path, body in (("jobs", {}), ("schedules", {"name": "tiny/x", "cron": "0 * * * *"})):
        refused = client.post(f"/api/v1/{path}", json={"kind": kind, "payload": payload, **body})
        assert (refused.status_code, f"(did you mean {meant}?)" in refused.text) == (422, True), refused.text


def test_a_finished_job_cannot_be_cancelled_and_an_unknown_one_is_not_found(client: httpx.Client) -> None:
    accepted = client.post("/api/v1/merges", json={"recipe": RECIPE, "name": "merged/cancel"})
    poll(client, accepted.headers["location"])
    assert client.delete(accepted.headers["location"]).json()["state"] == "succeeded"
    assert client.get("/api/v1/jobs/nope").json()["code"] == "job_not_found"
    assert client.delete("/api/v1/jobs/nope").status_code == 404


def test_the_methods_are_described_by_their_schemas(client: httpx.Client) -> None:
    methods = {method["name"]: method for method in client.get("/api/v1/methods").json()}
    assert {"linear", "slerp", "task_arithmetic", "ties"} <= set(methods)
    ties = methods["ties"]
    assert ties["needs_base"]
    assert ties["parameters"]["properties"]["density"]["minimum"] == 0
    assert client.get("/api/v1/methods/ties").json() == ties
    assert client.get("/api/v1/methods/tiez").json()["code"] == "unknown_method"
