"""How much and how often: quotas, rates, sizes of bodies, and requests that are sent twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.api.middleware.limits import Rates, token_rates
from graftwork.errors import QuotaExceeded, RateLimited
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Kind
from graftwork.settings import Settings
from graftwork.testing.family import Family

ORDER = {"kind": "import", "payload": {"source": "hf:no/body", "name": "acme/x"}, "priority": -100}
Secret = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("limited")
    return Settings(home=home, threads=1, auth="required", max_body_bytes=10_000, requests_per_second=100)


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(settings: Settings, registry: Registry) -> Iterator[httpx.Client]:
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="module")
def token(registry: Registry) -> Secret:
    def make(owner: str = "ada", **grants: list[str]) -> dict[str, str]:
        given = Grants.parse({name.replace("everywhere", "*"): scopes for name, scopes in grants.items()})
        return {"Authorization": f"Bearer {registry.tokens.create(owner, given)[0]}"}

    return make


def test_a_namespace_holds_no_more_than_its_quota(
    registry: Registry, client: httpx.Client, token: Secret, family: Family
) -> None:
    admin, writer = token(everywhere=["admin"]), token(small=["write"])
    base = import_source(registry, str(family.base), Name.parse("small/base"))
    path = "/api/v1/quotas/small"
    assert client.put(path, json={"max_versions": 1}, headers=writer).status_code == 403
    told = client.put(path, json={"max_versions": 1}, headers=admin).json()
    assert (told["versions"], told["bytes"]) == (1, sum(file.size for file in base.files))
    assert client.get(path, headers=writer).json() == told
    assert client.get(path, headers=token(other=["write"])).status_code == 403
    folder = family.adapters["adapter0"]
    files = [("files", (file.name, file.read_bytes())) for file in sorted(folder.iterdir())]
    form = {"name": "small/a", "base": "small/base"}
    refused = client.post("/api/v1/adapters", data=form, files=files, headers=writer)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert "small may hold 1 versions and would hold 2" in refused.json()["detail"]
    assert client.get("/api/v1/artifacts/small/a", headers=writer).status_code == 404
    assert import_source(registry, str(family.base), Name.parse("Small/Base")).number == 1  # nothing new
    client.put(path, json={}, headers=admin)
    assert client.post("/api/v1/adapters", data=form, files=files, headers=writer).status_code == 201
    assert client.get("/api/v1/quotas", headers=admin).json() == []


def test_shared_files_count_once(registry: Registry, tmp_path: Path, family: Family) -> None:
    base = import_source(registry, str(family.base), Name.parse("one/base"))
    size = sum(file.size for file in base.files)
    registry.quotas.set("ONE", max_bytes=size)
    registry.catalog.register(Name.parse("one/copy"), Kind.BASE, base.files)
    assert (registry.quotas.get("one").bytes, registry.quotas.get("one").versions) == (size, 2)
    with pytest.raises(QuotaExceeded, match=rf"one may hold {size} bytes"):
        registry.quotas.require_room("one", 1)
    with pytest.raises(QuotaExceeded, match="would hold"):
        import_source(registry, str(family.fine_tunes["ft0"]), Name.parse("one/more"), base=Ref.parse("one/base"))
    assert registry.quotas.get("one").versions == 2
    assert isinstance(base.files[0], FileEntry)


def test_a_bucket_empties_and_fills() -> None:
    rates = Rates(2, 3)
    for _ in range(3):
        rates.take("ada", now=100.0)
    with pytest.raises(RateLimited, match="may have 2 requests a second") as refused:
        rates.take("ada", now=100.1)
    assert refused.value.fields["retry_after"] == 1
    rates.take("eve", now=100.1)
    rates.take("ada", now=100.6)
    with pytest.raises(RateLimited):
        rates.take("ada", now=100.6)
    Rates(0, 1).take("ada", now=0.0)


def test_what_was_not_used_comes_back_and_what_was_used_beyond_is_owed() -> None:
    tokens = token_rates(60)
    assert tokens.take("ada", 1000, now=0.0) == 60
    with pytest.raises(RateLimited, match=r"ada may have 60 tokens a minute and asks for more; .* in 10 seconds"):
        tokens.take("ada", 10, now=0.0)
    tokens.give("ada", 60 - 5, now=0.0)
    assert tokens.take("ada", 10, now=0.0) == 10
    tokens.give("ada", 10 - 70, now=0.0)
    with pytest.raises(RateLimited, match="in 16 seconds"):
        tokens.take("ada", 1, now=0.0)
    assert tokens.take("ada", 1, now=16.0) == 1


def test_tokens_of_inference_are_counted_as_they_were_used(tmp_path: Path, family: Family) -> None:
    settings = Settings(home=tmp_path, auth="required", threads=1, tokens_per_minute=60)
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
        secrets = [registry.tokens.create(owner, Grants.parse({"tiny": ["infer"]}))[0] for owner in ("ada", "eve")]
    asked = {"model": "tiny/base", "prompt": [5, 6, 7, 8], "max_tokens": 20, "ignore_eos": True, "temperature": 0}
    with running(create_app(settings)) as url:
        ada, eve = (
            httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {secret}"}) for secret in secrets
        )
        with ada, eve:
            text = ada.post("/v1/completions", json={**asked, "max_tokens": 3}).json()["choices"][0]["text"]
            # 7 are gone; the next may use 44 and stops after its first, so that two of 24 go through after it
            stopped = {**asked, "max_tokens": 40, "stop": text[0], "stream": True}
            stopped["stream_options"] = {"include_usage": True}
            with ada.stream("POST", "/v1/completions", json=stopped) as answer:
                assert '"total_tokens":5' in answer.read().decode().replace(" ", "")
            answers = [ada.post("/v1/completions", json=asked) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            error = answers[-1].json()["error"]
            assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
            assert "ada may have 60 tokens a minute" in error["message"]
            assert 1 <= int(answers[-1].headers["retry-after"]) <= 24
            assert eve.post("/v1/completions", json=asked).status_code == 200


def test_who_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, auth="required", requests_per_second=1, request_burst=5)
    with Registry.open(settings) as registry, running(create_app(settings)) as url:
        secrets = [registry.tokens.create(owner, Grants.parse({"a": ["read"]}))[0] for owner in ("ada", "ada", "eve")]
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(24) as pool:
            headers = [{"Authorization": f"Bearer {secret}"} for secret in secrets]
            asked = [pool.submit(client.get, "/v1/models", headers=headers[turn % 2]) for turn in range(24)]
            answers = [each.result() for each in asked]
            assert [answer.status_code for answer in answers].count(200) >= 5
            refused = next(answer for answer in answers if answer.status_code != 200)
            assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/v1/models", headers=headers[2]).status_code == 200
            assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/merges", "/v1/completions"])
def test_bodies_have_a_limit(client: httpx.Client, token: Secret, path: str) -> None:
    headers = {**token(acme=["write"]), "Content-Type": "application/json"}
    for content in (b'"' + b"a" * 20_000 + b'"', (b"a" * 1000 for _ in range(20))):
        refused = client.post(path, content=content, headers=headers)
        assert refused.status_code == 413
        assert "10000 bytes (max_body_bytes)" in refused.text


def test_the_same_request_is_carried_out_once(client: httpx.Client, token: Secret) -> None:
    ada, eve = token(acme=["write"]), token("eve", acme=["write"])
    key = {"Idempotency-Key": "first"}
    made = [client.post("/api/v1/jobs", json=ORDER, headers={**ada, **key}) for _ in range(3)]
    assert {answer.status_code for answer in made} == {202}
    assert len({answer.json()["id"] for answer in made}) == 1
    assert [answer.headers.get("idempotency-replayed") for answer in made] == [None, "true", "true"]
    assert {answer.headers["location"] for answer in made} == {f"/api/v1/jobs/{made[0].json()['id']}"}
    assert client.post("/api/v1/jobs", json=ORDER, headers={**eve, **key}).json()["id"] != made[0].json()["id"]
    other = client.post("/api/v1/jobs", json={**ORDER, "priority": 1}, headers={**ada, **key})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    bad = client.post("/api/v1/jobs", json=ORDER, headers={**ada, "Idempotency-Key": "a" * 129})
    assert bad.status_code == 422


def test_requests_with_one_key_at_once_are_carried_out_once(client: httpx.Client, token: Secret) -> None:
    headers = {**token(acme=["write"]), "Idempotency-Key": "together"}
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(httpx.post(f"{client.base_url}/api/v1/jobs", json=ORDER, headers=headers, timeout=30))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert client.post("/api/v1/jobs", json=ORDER, headers=headers).status_code == 202


def test_a_token_that_ended_gets_no_answer_again(client: httpx.Client, registry: Registry, token: Secret) -> None:
    headers = {**token("late", acme=["write"]), "Idempotency-Key": "late"}
    assert client.post("/api/v1/jobs", json=ORDER, headers=headers).status_code == 202
    registry.tokens.revoke(registry.tokens.list("late")[0].id)
    assert client.post("/api/v1/jobs", json=ORDER, headers=headers).status_code == 401
