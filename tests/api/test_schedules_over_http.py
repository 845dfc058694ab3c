"""Schedules, evaluations and sweeps over HTTP, carried out by the server itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graftwork.registry.refs import Name
from graftwork.registry.transfer.importer import import_source
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.api.conftest import Server

GATE = {"dataset": "tiny/words", "metric": "perplexity", "threshold": 100000}
MODELS = {"query": {"tag": "blend", "kind": "checkpoint"}, "parameters": {"weight": 1}}
RECIPE = {"merge_method": "linear", "models": MODELS}
BODY = {
    "name": "tiny/nightly",
    "cron": "0 3 * * *",
    "time_zone": "Europe/Berlin",
    "kind": "merge",
    "payload": {"name": "tiny/blend", "recipe": RECIPE, "promote": "prod", "gate": GATE},
}


@pytest.fixture(scope="module")
def words(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("words") / "words.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one two three", "four five six")))
    for name in ("ft0", "ft1"):
        server.registry.tags.set(Name("tiny", name), ["blend"])
    return import_source(server.registry, str(file), Name.parse("tiny/words")).ref


@pytest.fixture
def nightly(client: httpx.Client, words: str) -> Iterator[str]:
    created = client.post("/api/v1/schedules", json=BODY)
    assert created.status_code == 201, created.text
    yield created.headers["Location"]
    client.delete(created.headers["Location"])


def ended(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    deadline = time.monotonic() + 120
    while (job := client.get(answer.headers["Location"]).json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found: dict[str, Any] = job
    return found


def test_a_schedule_runs_merges_gates_and_promotes(client: httpx.Client, nightly: str) -> None:
    assert nightly == "/api/v1/schedules/tiny/nightly"
    job = ended(client, client.post(f"{nightly}/run"))
    assert job["state"] == "succeeded", job["error"]
    assert job["result"]["gate"]["by"] == "tiny/words@v1"
    assert client.get("/api/v1/artifacts/tiny/blend/aliases/prod").json()["digest"] == job["result"]["digest"]
    (evaluation,) = client.get("/api/v1/artifacts/tiny/blend/versions/prod/evaluations").json()
    assert (evaluation["metric"], evaluation["job"]) == ("perplexity", job["id"])
    assert client.get("/api/v1/artifacts/tiny/blend/versions/prod").json()["evaluations"] == [evaluation]
    again = client.post(f"{nightly}/run").json()
    assert (again["state"], list(again["result"])) == ("succeeded", ["skipped"])
    assert [one["id"] for one in client.get(f"{nightly}/jobs").json()] == [again["id"], job["id"]]


def test_a_schedule_is_listed_paused_resumed_and_removed(client: httpx.Client, nightly: str) -> None:
    shown = client.get(nightly).json()
    assert shown["payload"] == BODY["payload"]
    assert (shown["overlap"], shown["catch_up"], shown["enabled"]) == ("skip", "one", True)
    assert shown["next_at"].endswith(("T01:00:00Z", "T02:00:00Z"))
    assert shown in client.get("/api/v1/schedules", params={"limit": 1}).json()
    assert client.post(f"{nightly}/pause").json()["enabled"] is False
    assert client.post(f"{nightly}/resume").json() == shown
    assert client.post("/api/v1/schedules", json=BODY).status_code == 409
    assert client.delete(nightly).status_code == 204
    assert client.get(nightly).status_code == 404


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "every day"}, "cron"),
        ({"time_zone": "Mars"}, "time_zone"),
        ({"kind": "dance"}, "kind"),
        ({"payload": {"name": "tiny/x"}}, "recipe"),
        ({"overlap": "sometimes"}, "overlap"),
        ({"name": "nightly"}, "NAMESPACE/NAME"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(client: httpx.Client, change: dict[str, Any], field: str) -> None:
    answer = client.post("/api/v1/schedules", json={**BODY, **change})
    assert answer.status_code == 422
    assert field in answer.json()["detail"]


def test_an_evaluation_is_a_job_and_the_second_one_is_found(client: httpx.Client, words: str) -> None:
    body = {"model": "tiny/a@v1", "dataset": "tiny/words"}
    first, second = (ended(client, client.post("/api/v1/evaluations", json=body)) for _ in range(2))
    assert first["payload"]["dataset"] == words
    assert (first["result"]["found"], second["result"]["found"]) == (False, True)
    assert first["result"]["metrics"] == second["result"]["metrics"]
    for wrong, told in (
        ({"metrics": ["accuracy"]}, "it has perplexity"),
        ({"dataset": "tiny/base"}, "not a dataset"),
        ({"evaluator": "x"}, "one of them"),
    ):
        refused = client.post("/api/v1/evaluations", json={**body, **wrong})
        assert (refused.status_code, told in refused.json()["detail"]) == (422, True)
    unknown = client.post("/api/v1/evaluations", json={"model": "tiny/a", "evaluator": "rm -rf"})
    assert "the operator has configured no 'rm -rf'" in unknown.json()["detail"]


def test_a_sweep_registers_its_best_point(client: httpx.Client, server: Server, words: str, tmp_path: Path) -> None:
    entries = [{"model": f"tiny/{name}", "parameters": {"weight": 1}} for name in ("ft0", "base")]
    body = {
        "name": "tiny/swept",
        "recipe": {"merge_method": "linear", "models": entries},
        "grid": {"models[0].parameters.weight": {"from": 0.5, "to": 1.5, "step": 0.5}},
        "evaluate": {"dataset": "tiny/words", "metric": "perplexity"},
        "aliases": ["best"],
    }
    job = ended(client, client.post("/api/v1/sweeps", json=body))
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    assert (result["points"], result["failed"]) == (3, 0)
    version = server.registry.catalog.resolve("tiny/swept@best")
    assert version.digest == result["digest"]
    known = until(lambda: server.registry.evaluations.of([version.digest]))
    assert [one.value for one in known] == [result["value"]]
    until(lambda: not list((server.registry.home / "sweeps").iterdir()))
    body["recipe"] = {"merge_method": "linear", "models": [{"model": str(tmp_path)}] * 2}
    refused = ended(client, client.post("/api/v1/sweeps", json={**body, "grid": {"seed": [1]}}))
    assert refused["state"] == "failed"
    assert "a registry reference NAMESPACE/NAME" in refused["error"]["message"]
