"""The API over a registry on PostgreSQL whose blobs are in an S3-compatible storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.client import Client, uploads
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.object_storage import BUCKET, ObjectStorage
from graftwork.testing.postgres import PostgresServer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def grown_up(
    tmp_path_factory: pytest.TempPathFactory, family: Family, postgres: PostgresServer, object_storage: ObjectStorage
) -> Iterator[tuple[Settings, str]]:
    settings = Settings(
        home=tmp_path_factory.mktemp("home"),
        threads=1,
        memory=50_000_000,
        database_url=postgres.new_schema(),
        storage_url=object_storage.new_prefix(),
    )
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
    with running(create_app(settings)) as url:
        yield settings, url


@pytest.fixture
def client(grown_up: tuple[Settings, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=grown_up[1], timeout=60) as opened:
        yield opened


def upload(client: httpx.Client, folder: Path, name: str) -> httpx.Response:
    files = [("files", (file, (folder / file).read_bytes())) for file in (CONFIG, WEIGHTS)]
    return client.post("/api/v1/adapters", data={"name": name, "base": "tiny/base"}, files=files)


def test_what_is_uploaded_is_downloaded_from_the_storage(client: httpx.Client, family: Family) -> None:
    folder = family.adapters["adapter0"]
    assert upload(client, folder, "tiny/a").status_code == 201
    assert upload(client, folder, "tiny/a").status_code == 200
    for file in (CONFIG, WEIGHTS):
        url, content = f"/api/v1/artifacts/tiny/a/versions/v1/files/{file}", (folder / file).read_bytes()
        told = client.head(url)
        assert (told.status_code, int(told.headers["Content-Length"])) == (200, len(content))
        sent = client.get(url)
        assert sent.status_code == 307
        assert "X-Amz-Signature" in sent.headers["Location"]
        assert sent.headers["ETag"] == told.headers["ETag"]
        assert client.get(url, follow_redirects=True).content == content
        part = client.get(url, follow_redirects=True, headers={"Range": "bytes=2-5"})
        assert (part.status_code, part.content) == (206, content[2:6])
        assert client.get(url, headers={"If-None-Match": told.headers["ETag"]}).status_code == 304


def test_a_server_that_clients_cannot_pass_by_sends_the_bytes_itself(
    grown_up: tuple[Settings, str], family: Family, tmp_path: Path
) -> None:
    from dataclasses import replace

    settings = replace(grown_up[0], home=tmp_path, storage_url=f"{grown_up[0].storage_url}&downloads=proxy")
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        upload(client, family.adapters["adapter1"], "tiny/b")
        sent = client.get(f"/api/v1/artifacts/tiny/b/versions/v1/files/{WEIGHTS}")
        assert sent.status_code == 200
        assert sent.content == (family.adapters["adapter1"] / WEIGHTS).read_bytes()


def test_a_model_is_served_from_the_storage(client: httpx.Client, family: Family) -> None:
    assert upload(client, family.adapters["adapter2"], "tiny/c").status_code == 201
    asked = {"model": "tiny/c", "prompt": [1, 2, 3], "max_tokens": 4}
    told = client.post("/v1/completions", json=asked)
    assert told.status_code == 200, told.text


def test_garbage_is_collected_by_a_job(client: httpx.Client, family: Family) -> None:
    upload(client, family.adapters["adapter1"], "tiny/gone")
    assert client.delete("/api/v1/artifacts/tiny/gone/versions/v1").status_code in (200, 204)
    client.delete("/api/v1/artifacts/tiny/b/versions/v1")  # has the same content, where the test before has run
    asked = {"kind": "gc", "payload": {"apply": True, "grace_seconds": 0}}
    for _ in range(2):
        made = client.post("/api/v1/jobs", json=asked)
        assert made.status_code == 202, made.text
        location = made.headers["Location"]
        while (job := client.get(location).json())["state"] not in ("succeeded", "failed", "cancelled"):
            continue
        assert job["state"] == "succeeded", job
    assert job["result"]["deleted"]["count"] >= 1
    again = upload(client, family.adapters["adapter1"], "tiny/gone")
    assert again.status_code in (200, 201)
    sent = client.get(f"/api/v1/artifacts/tiny/gone/versions/v1/files/{WEIGHTS}", follow_redirects=True)
    assert sent.content == (family.adapters["adapter1"] / WEIGHTS).read_bytes()


def begun(client: httpx.Client, content: bytes, name: str) -> str:
    """The URL of the first part of an upload of one file of texts."""
    body = {"name": name, "kind": "dataset", "files": [{"path": "texts.jsonl", "size": len(content)}]}
    made = client.post("/api/v1/uploads", json=body)
    assert made.status_code == 201, made.text
    return f"{made.headers['Location']}/files/texts.jsonl/parts/1"


def test_a_part_is_left_at_the_storage(client: httpx.Client, object_storage: ObjectStorage) -> None:
    content = b'{"text": "one two three"}\n'
    sha256 = hashlib.sha256(content).hexdigest()
    part = begun(client, content, "tiny/left")
    signed = client.post(f"{part}/url", json={"sha256": sha256}).json()
    early = client.post(f"{part}/arrived", json={"sha256": sha256})
    assert (early.status_code, early.json()["code"]) == (404, "arrival_not_found")
    put, headers = signed["url"], signed["headers"]
    for other in (content + b"x", content.replace(b"one", b"six")):
        assert httpx.put(put, content=other, headers=headers | {"Content-Length": str(len(other))}).status_code >= 400
    assert httpx.put(put, content=content).status_code >= 400
    assert httpx.put(put, content=content, headers=headers).status_code == 200
    arrived = [client.post(f"{part}/arrived", json={"sha256": sha256}) for _ in range(2)]
    assert [answer.status_code for answer in arrived] == [201, 200]
    assert arrived[0].json() == {"path": "texts.jsonl", "number": 1, "size": len(content), "sha256": sha256}
    upload = part.partition("/files/")[0]
    assert client.post(f"{upload}/complete").status_code == 201
    listed = object_storage.client().list_objects_v2(Bucket=BUCKET)
    assert not [entry["Key"] for entry in listed["Contents"] if "/arrivals/" in entry["Key"]]


def test_what_was_put_in_the_place_of_a_part_is_refused(
    client: httpx.Client, grown_up: tuple[Settings, str], object_storage: ObjectStorage
) -> None:
    content = b'{"text": "one two three"}\n'
    sha256 = hashlib.sha256(content).hexdigest()
    part = begun(client, content, "tiny/swapped")
    key = urlsplit(client.post(f"{part}/url", json={"sha256": sha256}).json()["url"]).path.removeprefix(f"/{BUCKET}/")
    for other in (content.replace(b"one", b"six"), content[:-1]):
        object_storage.client().put_object(Bucket=BUCKET, Key=key, Body=other)
        refused = client.post(f"{part}/arrived", json={"sha256": sha256})
        assert (refused.status_code, refused.json()["code"]) == (422, "digest_mismatch")
    with Registry.open(grown_up[0]) as registry:
        assert registry.blobs.abandon(3600) == 0
        assert registry.blobs.abandon(-1) == 1
    gone = client.post(f"{part}/arrived", json={"sha256": sha256})
    assert gone.json()["code"] == "arrival_not_found"


def test_the_client_leaves_large_parts_at_the_storage(
    grown_up: tuple[Settings, str], family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LEAST_AWAY", 2_000)
    asked: list[str] = []
    send = httpx.Client.send

    def noted(self: httpx.Client, request: httpx.Request, **more: Any) -> httpx.Response:
        asked.append(f"{request.method} {request.url.host} {'authorization' in request.headers}")
        return send(self, request, **more)

    monkeypatch.setattr(httpx.Client, "send", noted)
    with Client(grown_up[1].replace("127.0.0.1", "localhost"), "gw_secret") as graft:
        version = graft(uploads.send("tiny/sent", family.fine_tunes["ft0"], base="tiny/base"))
    assert (version.kind, version.already_there) == ("checkpoint", False)
    assert "PUT 127.0.0.1 False" in asked
    assert "PUT localhost True" in asked
    assert "PUT 127.0.0.1 True" not in asked
