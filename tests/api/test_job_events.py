"""A job's events over HTTP: a stream that ends with the job and goes on where a client lost it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

RECIPE: dict[str, Any] = {
    "merge_method": "linear",
    "models": [{"model": f"tiny/ft{number}", "parameters": {"weight": 0.5}} for number in (0, 1)],
}


def read(client: httpx.Client, location: str, **headers: str) -> list[tuple[int, str, dict[str, Any]]]:
    events: list[tuple[int, str, dict[str, Any]]] = []
    fields: dict[str, str] = {}
    with client.stream("GET", f"{location}/events", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
    return events


def test_the_events_of_a_job_end_with_it_and_can_be_taken_up_again(client: httpx.Client) -> None:
    accepted = client.post("/api/v1/merges", json={"recipe": RECIPE, "name": "events/one"})
    location = accepted.headers["location"]
    events = read(client, location)
    states = [data["state"] for _, kind, data in events if kind == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert read(client, location) == events
    assert read(client, location, **{"Last-Event-ID": str(events[0][0])}) == events[1:]
    assert read(client, location, **{"Last-Event-ID": str(events[-1][0])}) == []


@pytest.mark.parametrize("last", ["x", "-1", "1" * 30])
def test_an_event_id_that_is_none_is_refused(client: httpx.Client, last: str) -> None:
    accepted = client.post("/api/v1/merges", json={"recipe": RECIPE, "name": "events/two"})
    refused = client.get(f"{accepted.headers['location']}/events", headers={"Last-Event-ID": last})
    assert (refused.status_code, refused.json()["field"]) == (422, "Last-Event-ID")


def test_jobs_come_in_pages_and_by_kind(client: httpx.Client) -> None:
    for number in range(3):
        client.post("/api/v1/merges", json={"recipe": RECIPE, "name": f"events/page{number}"})
    everything = [job["id"] for job in client.get("/api/v1/jobs", params={"limit": 1000}).json()]
    pages: list[str] = []
    url: str | None = "/api/v1/jobs?limit=2"
    while url:
        response = client.get(url)
        pages += [job["id"] for job in response.json()]
        url = response.links.get("next", {}).get("url")
    assert pages == everything
    assert client.get("/api/v1/jobs", params={"kind": "extract"}).json() == []


def test_an_extraction_is_a_job(client: httpx.Client) -> None:
    order = {"model": "tiny/ft0", "base": "tiny/base", "rank": 2, "name": "events/lora"}
    accepted = client.post("/api/v1/jobs", json={"kind": "extract", "payload": order})
    assert accepted.status_code == 202
    states = [data["state"] for _, kind, data in read(client, accepted.headers["location"]) if kind == "state"]
    assert states[-1] == "succeeded"
    made = client.get("/api/v1/artifacts/events/lora").json()
    assert made["kind"] == "adapter"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "import", "payload": {"source": "/etc", "name": "a/b"}}, 422),
        ({"kind": "extract", "payload": {"model": "tiny/ft0"}}, 422),
        ({"kind": "dance", "payload": {}}, 422),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(client: httpx.Client, body: dict[str, Any], status: int) -> None:
    assert client.post("/api/v1/jobs", json=body).status_code == status
