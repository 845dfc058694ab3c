"""Aliases move by compare-and-set, with a body's `expected` or with HTTP's own conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graftwork.errors import AdapterProbeFailed
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.api.conftest import Server

ROOT = "/api/v1/artifacts/tiny/a/aliases"


def etag(server: Server, revision: str) -> str:
    return f'"{server.digest(f"tiny/a@{revision}")}"'


def test_an_alias_is_created_moved_read_and_removed(server: Server, client: httpx.Client) -> None:
    for target in ({"version": "v1"}, {"version": 2}, {"digest": server.digest("tiny/a@v3")}, {"version": "walk"}):
        moved = client.put(f"{ROOT}/walk", json={**target, "reason": "a walk"})
        assert moved.status_code == 200
        read = client.get(f"{ROOT}/walk")
        assert read.json() == moved.json()
        assert read.headers["etag"] == moved.headers["etag"] == f'"{moved.json()["digest"]}"'
    assert "walk" in {entry["alias"] for entry in client.get(ROOT).json()}
    assert client.delete(f"{ROOT}/walk").status_code == 204
    assert client.get(f"{ROOT}/walk").status_code == 404
    history = client.get(f"{ROOT}/walk/history").json()
    versions = [server.digest(f"tiny/a@v{number}") for number in (1, 2, 3)]
    assert [(move["before"], move["after"]) for move in history] == [
        (None, versions[0]),
        (versions[0], versions[1]),
        (versions[1], versions[2]),
        (versions[2], None),
    ]


def test_expected_that_does_not_hold_is_a_conflict(server: Server, client: httpx.Client) -> None:
    first, second = server.digest("tiny/a@v1"), server.digest("tiny/a@v2")
    assert client.put(f"{ROOT}/cas", json={"version": 1, "expected": None}).status_code == 200
    again = client.put(f"{ROOT}/cas", json={"version": 2, "expected": None})
    assert (again.status_code, again.json()["code"]) == (409, "alias_conflict")
    assert again.json()["actual"] == first
    for expected in (second, "v2"):
        refused = client.put(f"{ROOT}/cas", json={"version": 2, "expected": expected})
        assert (refused.status_code, refused.json()["expected"]) == (409, second)
        assert f"is at {first[:12]}, not at {second[:12]}: " in refused.json()["detail"]
    assert server.digest("tiny/a@cas") == first
    assert client.put(f"{ROOT}/cas", json={"version": 2, "expected": first}).status_code == 200
    assert server.digest("tiny/a@cas") == second


def test_a_header_that_does_not_hold_is_a_failed_precondition(server: Server, client: httpx.Client) -> None:
    created = client.put(f"{ROOT}/match", json={"version": 1}, headers={"If-None-Match": "*"})
    assert created.status_code == 200
    for headers in ({"If-None-Match": "*"}, {"If-Match": etag(server, "v2")}):
        refused = client.put(f"{ROOT}/match", json={"version": 3}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (412, "alias_conflict")
        assert refused.json()["status"] == 412
    assert client.delete(f"{ROOT}/match", headers={"If-Match": etag(server, "v2")}).status_code == 412
    assert client.put(f"{ROOT}/match", json={"version": 3}, headers={"If-Match": created.headers["etag"]}).is_success
    assert client.delete(f"{ROOT}/match", headers={"If-Match": etag(server, "v3")}).status_code == 204


@pytest.mark.parametrize(
    ("alias", "body", "headers", "status"),
    [
        ("bad", {}, {}, 422),
        ("bad", {"version": 1, "digest": "0" * 64}, {}, 422),
        ("bad", {"version": 1, "unknown": True}, {}, 422),
        ("bad", {"digest": "short"}, {}, 422),
        ("bad", {"version": 1}, {"If-Match": "v1"}, 422),
        ("bad", {"version": 1, "expected": None}, {"If-None-Match": "*"}, 422),
        ("bad", {"version": 99}, {}, 404),
        ("bad", {"digest": "0" * 64}, {}, 404),
        ("latest", {"version": 1}, {}, 422),
        ("v7", {"version": 1}, {}, 422),
    ],
)
def test_a_move_that_makes_no_sense_is_refused(
    client: httpx.Client, alias: str, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    assert client.put(f"{ROOT}/{alias}", json=body, headers=headers).status_code == status
    assert client.get(f"{ROOT}/{alias}").status_code == 404


def test_an_adapter_that_fails_its_probe_does_not_take_the_alias(
    server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(adapter: str, marked: bytes = b"") -> str:
        (field, (name, config)), weights = server.upload(adapter)
        files = [(field, (name, config + marked)), weights]
        form = {"name": "probe/a", "base": "tiny/base"}
        digest: str = client.post("/api/v1/adapters", data=form, files=files).json()["digest"]
        return digest

    def ask() -> httpx.Response:
        return client.post("/v1/completions", json={"model": "probe/a@live", "prompt": "abc", "max_tokens": 1})

    def fail(resident: object) -> None:
        raise AdapterProbeFailed(adapter="probe/a", reason="its logits are not finite")

    alias = "/api/v1/artifacts/probe/a/aliases/live"
    old = upload("adapter0")
    assert client.put(alias, json={"digest": old}).is_success
    assert ask().is_success
    new = upload("adapter1", marked=b"\n")
    with monkeypatch.context() as patch:
        patch.setattr(server.residency, "_probe", fail)
        refused = client.put(alias, json={"digest": new})
    assert (refused.status_code, refused.json()["code"]) == (422, "adapter_probe_failed")
    assert client.get(alias).json()["digest"] == old
    assert ask().headers["x-graftwork-version"] == old
    until(lambda: new not in server.residency.digests)
    assert client.put(alias, json={"digest": new}).is_success
    assert ask().headers["x-graftwork-version"] == new
