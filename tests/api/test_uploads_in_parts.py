"""`/api/v1/uploads`: what is sent in parts, interrupted, resumed, refused, given up."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import load, save

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.access.grants import Grants
from graftwork.registry.arrivals.intents import DeclaredFile, Intent
from graftwork.registry.gc import collect
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family

if TYPE_CHECKING:
    pass

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PART = 2048


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def url(home: Path, family: Family) -> Iterator[str]:
    """A server with small parts and `tiny/base`; two of them share the home."""
    settings = Settings(home=home, threads=1, upload_part_bytes=PART, max_checkpoint_bytes=2_000_000)
    with Registry.open(settings) as registry:
        import_source(registry, str(family.base), Name.parse("tiny/base"))
    with running(create_app(settings)) as first:
        yield first


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


def adapter(family: Family, number: int = 0) -> dict[str, bytes]:
    folder = family.adapters[f"adapter{number}"]
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}


def begin(client: httpx.Client, name: str, files: dict[str, bytes], **more: Any) -> httpx.Response:
    declared = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()
    ]
    return client.post("/api/v1/uploads", json={"name": name, "files": declared, **more})


def digest_of(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def put(client: httpx.Client, upload: str, path: str, number: int, data: bytes, **headers: str) -> httpx.Response:
    place = f"/api/v1/uploads/{upload}/files/{path}/parts/{number}"
    return client.put(place, content=data, headers=digest_of(data) | headers)


def send(client: httpx.Client, upload: dict[str, Any], files: dict[str, bytes], *, most: int = 10_000) -> int:
    """Send what is missing, at most so many parts."""
    sent = 0
    size = upload["part_bytes"]
    for file in client.get(f"/api/v1/uploads/{upload['id']}").json()["files"]:
        stored = {part["number"] for part in file["stored"]}
        for number in range(1, file["parts"] + 1):
            if number not in stored and sent < most:
                data = files[file["path"]][(number - 1) * size : number * size]
                assert put(client, upload["id"], file["path"], number, data).status_code == 201
                sent += 1
    return sent


def parts_of(files: dict[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Files as the parts of a form."""
    return [("files", item) for item in files.items()]


def left_over(home: Path) -> list[Path]:
    """Files of uploads and of requests that are under way."""
    roots = [path for path in (home / "uploads", home / "blobs" / "tmp") if path.exists()]
    return [path for root in roots for path in root.rglob("*") if path.is_file() and path.name != "lock"]


def test_an_adapter_in_parts_is_the_adapter_in_one_request(client: httpx.Client, family: Family, home: Path) -> None:
    files = adapter(family)
    answer = begin(client, "parts/a", files, base="tiny/base", aliases=["prod"])
    assert answer.status_code == 201
    upload = answer.json()
    assert answer.headers["location"] == f"/api/v1/uploads/{upload['id']}"
    assert (upload["kind"], upload["part_bytes"], upload["received"]) == ("adapter", PART, 0)
    early = client.post(f"/api/v1/uploads/{upload['id']}/complete")
    assert (early.status_code, early.json()["code"]) == (409, "upload_conflict")
    assert send(client, upload, files, most=3) == 3
    assert send(client, upload, files) > 3
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["received"] == upload["size"]
    done = client.post(f"/api/v1/uploads/{upload['id']}/complete")
    assert done.status_code == 201
    assert done.headers["location"] == "/api/v1/artifacts/parts/a/versions/v1"
    again = client.post(f"/api/v1/uploads/{upload['id']}/complete")
    assert (again.status_code, again.json()) == (201, done.json())
    assert left_over(home) == []
    whole = client.post(
        "/api/v1/adapters",
        data={"name": "parts/b", "base": "tiny/base"},
        files=[("files", item) for item in files.items()],
    )
    assert whole.json()["digest"] == done.json()["digest"]
    assert client.get("/api/v1/artifacts/parts/a/aliases/prod").json()["digest"] == done.json()["digest"]
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["version"] == done.json()["digest"]
    assert put(client, upload["id"], CONFIG, 1, files[CONFIG][:PART]).status_code == 200
    assert client.delete(f"/api/v1/uploads/{upload['id']}").status_code == 204
    assert client.get("/api/v1/artifacts/parts/a").status_code == 200


@pytest.mark.parametrize("in_parts", [True, False])
def test_a_checkpoint_is_registered(client: httpx.Client, family: Family, in_parts: bool) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    files = {name: (family.fine_tunes["ft0"] / name).read_bytes() for name in names}
    if in_parts:
        upload = begin(client, "parts/checkpoint", files, base="tiny/base").json()
        send(client, upload, files)
        done = client.post(f"/api/v1/uploads/{upload['id']}/complete")
    else:
        form = {"name": "parts/checkpoint-whole", "base": "tiny/base"}
        done = client.post("/api/v1/checkpoints", data=form, files=parts_of(files))
    assert done.status_code == 201
    assert done.json()["kind"] == "checkpoint"
    path = done.headers["location"]
    for name, data in files.items():
        assert client.get(f"{path}/files/{name}").content == data


def test_parts_come_in_any_order_twice_and_at_once(client: httpx.Client, url: str, family: Family) -> None:
    files = adapter(family, 1)
    upload = begin(client, "parts/at-once", files, base="tiny/base").json()
    jobs = [
        (file["path"], number) for file in upload["files"] for number in range(file["parts"], 0, -1) for _ in range(2)
    ]
    statuses: list[int] = []

    def work() -> None:
        with httpx.Client(base_url=url, timeout=60) as own:
            while jobs:
                path, number = jobs.pop()
                data = files[path][(number - 1) * PART : number * PART]
                statuses.append(put(own, upload["id"], path, number, data).status_code)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 201}
    assert statuses.count(200) == statuses.count(201)
    assert client.post(f"/api/v1/uploads/{upload['id']}/complete").status_code == 201


def test_two_servers_share_an_upload(client: httpx.Client, home: Path, family: Family) -> None:
    files = adapter(family, 2)
    upload = begin(client, "parts/shared", files, base="tiny/base").json()
    send(client, upload, files, most=2)
    settings = Settings(home=home, threads=1, upload_part_bytes=PART * 2)
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as other:
        send(other, upload, files)
        done = [each.post(f"/api/v1/uploads/{upload['id']}/complete") for each in (other, client)]
    assert [answer.status_code for answer in done] == [201, 201]
    assert done[0].json() == done[1].json()


@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        (b"x" * PART, {"Content-Digest": "sha-256=:AAAA:"}, 422, "invalid_request"),
        (b"x" * PART, {"Content-Digest": "md5=:AAAA:"}, 422, "invalid_request"),
        (b"x" * PART, digest_of(b"y"), 422, "digest_mismatch"),
        (b"x" * (PART - 1), {}, 422, "invalid_request"),
        (b"x" * (PART + 1), {}, 413, "too_large"),
        (b"", {}, 422, "invalid_request"),
    ],
)
def test_a_part_that_is_not_as_declared_is_refused(
    client: httpx.Client, home: Path, data: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    upload = begin(client, "parts/bad", {"model.safetensors": b"x" * PART * 2}).json()
    answer = put(client, upload["id"], "model.safetensors", 1, data, **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    chunked = client.put(
        f"/api/v1/uploads/{upload['id']}/files/model.safetensors/parts/1",
        content=iter([data[:100], data[100:]]),
        headers=digest_of(data) | headers,
    )
    assert (chunked.status_code, chunked.json()["code"]) == (status, code)
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["received"] == 0
    assert client.delete(f"/api/v1/uploads/{upload['id']}").status_code == 204
    assert left_over(home) == []
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["code"] == "upload_not_found"


def test_a_server_without_an_object_storage_takes_parts_itself(client: httpx.Client, family: Family) -> None:
    files = adapter(family)
    upload = begin(client, "parts/here", files, base="tiny/base").json()["id"]
    part = f"/api/v1/uploads/{upload}/files/{CONFIG}/parts/1"
    asked = {"sha256": hashlib.sha256(files[CONFIG]).hexdigest()}
    assert client.post(f"{part}/url", json=asked).json() == {"url": None, "headers": {}, "seconds": 0}
    refused = client.post(f"{part}/arrived", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (404, "arrival_not_found")
    assert client.post(f"{part}9/url", json=asked).status_code == 404
    assert client.post(f"{part}/url", json={"sha256": "x"}).status_code == 422


def test_a_stored_part_never_changes(client: httpx.Client) -> None:
    upload = begin(client, "parts/fixed", {"model.safetensors": b"x" * PART}).json()["id"]
    assert put(client, upload, "model.safetensors", 1, b"x" * PART).status_code == 201
    assert put(client, upload, "model.safetensors", 1, b"x" * PART).status_code == 200
    other = put(client, upload, "model.safetensors", 1, b"y" * PART)
    assert (other.status_code, other.json()["code"]) == (409, "upload_conflict")
    for path, number in (("model.safetensors", 2), ("model.safetensors", 0), ("other.json", 1)):
        assert put(client, upload, path, number, b"x").status_code == 404
    assert client.put(f"/api/v1/uploads/{upload}/files/model.safetensors/parts/1", content=b"x").status_code == 422
    assert client.delete(f"/api/v1/uploads/{upload}").status_code == 204


@pytest.mark.parametrize(
    ("files", "more", "status", "code"),
    [
        (["../escape.json"], {}, 422, "unsafe_file"),
        (["/etc/passwd.json"], {}, 422, "unsafe_file"),
        (["a\\b.json"], {}, 422, "unsafe_file"),
        (["a//b.json"], {}, 422, "unsafe_file"),
        (["model\u212a.json"], {}, 422, "unsafe_file"),
        (["a\u0000.json"], {}, 422, "unsafe_file"),
        ([".hidden/a.json"], {}, 422, "unsafe_file"),
        (["a/b/c/d/e/f/g/h/i.json"], {}, 422, "unsafe_file"),
        (["A.json", "a.json"], {}, 422, "unsafe_file"),
        (["a.json", "a.json"], {}, 422, "unsafe_file"),
        (["A/x.json", "a/y.json"], {}, 422, "unsafe_file"),
        (["a.json", "a.json/b.json"], {}, 422, "unsafe_file"),
        (["pytorch_model.bin"], {}, 422, "unsafe_file"),
        (["checkpoint-5/model.safetensors"], {}, 422, "unsafe_file"),
        (["modeling.py"], {}, 422, "unsafe_file"),
        (["picture.png"], {}, 422, "unsafe_file"),
        (["config.json"], {"name": "no-namespace"}, 422, "invalid_name"),
        (["config.json"], {"base": "tiny/nothing"}, 404, "artifact_not_found"),
        (["config.json"], {"aliases": ["latest"]}, 422, "invalid_name"),
        (["config.json"], {"name": "tiny/base", "kind": "adapter"}, 409, "kind_conflict"),
        (["config.json"], {"kind": "nonsense"}, 422, "invalid_request"),
        ([], {}, 422, "invalid_request"),
    ],
)
def test_what_can_never_be_registered_is_refused_at_once(
    client: httpx.Client, home: Path, files: list[str], more: dict[str, Any], status: int, code: str
) -> None:
    body = {"name": "parts/never", "files": [{"path": path, "size": 1} for path in files], **more}
    answer = client.post("/api/v1/uploads", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert left_over(home) == []


def test_more_than_the_limit_is_refused_at_once(client: httpx.Client) -> None:
    body = {"name": "parts/big", "files": [{"path": "model.safetensors", "size": 2_000_001}]}
    assert client.post("/api/v1/uploads", json=body).status_code == 413


def nan(data: bytes) -> bytes:
    tensors = load(data)
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    return save(tensors)


@pytest.mark.parametrize(
    ("change", "code"), [(lambda data: data[:-4], "invalid_safetensors"), (nan, "non_finite_tensor")]
)
def test_a_refused_upload_registers_nothing(
    client: httpx.Client, home: Path, family: Family, change: Any, code: str
) -> None:
    folder = family.fine_tunes["ft1"]
    files = {"config.json": (folder / "config.json").read_bytes()}
    files["model.safetensors"] = change((folder / "model.safetensors").read_bytes())
    blobs = {path.name for path in (home / "blobs").rglob("*") if path.is_file()}
    upload = begin(client, "parts/refused", files).json()
    send(client, upload, files)
    refused = [client.post(f"/api/v1/uploads/{upload['id']}/complete") for _ in range(2)]
    assert [answer.json()["code"] for answer in refused] == [code, code]
    assert str(home) not in refused[0].text
    assert client.get("/api/v1/artifacts/parts/refused").status_code == 404
    assert {path.name for path in (home / "blobs").rglob("*") if path.is_file()} == blobs
    assert client.delete(f"/api/v1/uploads/{upload['id']}").status_code == 204
    assert left_over(home) == []


def test_another_digest_than_the_declared_one_registers_nothing(client: httpx.Client, family: Family) -> None:
    files = adapter(family)
    body = [{"path": path, "size": len(data), "sha256": "0" * 64} for path, data in files.items()]
    upload = client.post("/api/v1/uploads", json={"name": "parts/other", "base": "tiny/base", "files": body}).json()
    send(client, upload, files)
    answer = client.post(f"/api/v1/uploads/{upload['id']}/complete")
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")
    assert client.get("/api/v1/artifacts/parts/other").status_code == 404


def test_what_is_left_alone_is_swept(client: httpx.Client, home: Path) -> None:
    upload = begin(client, "parts/old", {"model.safetensors": b"x" * PART * 2}).json()["id"]
    put(client, upload, "model.safetensors", 1, b"x" * PART)
    orphan = home / "uploads" / ("f" * 32)
    orphan.mkdir()
    with Registry.open(Settings(home=home)) as registry:
        registry.uploads.sweep(3600.0)
        assert client.get(f"/api/v1/uploads/{upload}").status_code == 200
        assert registry.uploads.reserved("PARTS") >= 2 * PART
        registry.uploads.sweep(0.0)
        assert client.get(f"/api/v1/uploads/{upload}").status_code == 404
        assert orphan.is_dir()
        os.utime(orphan, (0, 0))
        assert registry.uploads.sweep(0.0) == 1
    assert left_over(home) == []


def test_garbage_collection_takes_what_is_left_alone(client: httpx.Client, home: Path) -> None:
    upload = begin(client, "parts/forgotten", {"model.safetensors": b"x" * PART}).json()["id"]
    put(client, upload, "model.safetensors", 1, b"x" * PART)
    with Registry.open(Settings(home=home)) as registry:
        assert collect(registry, apply=True, grace=3600).uploads.count == 0
        assert collect(registry, apply=True, grace=3600, idle=3600).uploads.count == 0
        told = collect(registry, grace=3600, idle=0).uploads
        assert [finding.name for finding in told.findings] == [f"{upload} (parts/forgotten)"]
        assert told.size == PART
        assert client.get(f"/api/v1/uploads/{upload}").status_code == 200
        collect(registry, apply=True, grace=3600, idle=0)
    assert client.get(f"/api/v1/uploads/{upload}").status_code == 404
    assert left_over(home) == []


def test_a_server_sweeps_by_itself(tmp_path: Path) -> None:
    with Registry.open(Settings(home=tmp_path)) as registry:
        intent = Intent("parts/old", None, None, (), (DeclaredFile("model.safetensors", 1),), 1)
        upload = registry.uploads.create("ada", "parts", intent)
        stop, swept = threading.Event(), threading.Event()
        keeper = threading.Thread(target=registry.uploads.keep_swept, args=(0.0, stop))
        keeper.start()
        while not swept.is_set():
            swept.wait(0.01)
            if not registry.uploads.list():
                swept.set()
        stop.set()
        keeper.join()
        assert not (tmp_path / "uploads" / upload.id).exists()


def test_an_owner_has_so_many_uploads_under_way(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, threads=1, uploads_per_owner=2)
    with running(create_app(settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        first = begin(client, "parts/a", {"model.safetensors": b"x"}).json()["id"]
        assert begin(client, "parts/b", {"model.safetensors": b"x"}).status_code == 201
        refused = begin(client, "parts/c", {"model.safetensors": b"x"})
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
        assert "uploads_per_owner" in refused.json()["detail"]
        client.delete(f"/api/v1/uploads/{first}")
        assert begin(client, "parts/c", {"model.safetensors": b"x"}).status_code == 201


def test_an_upload_is_its_owners(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, threads=1, auth="required")
    with Registry.open(settings) as registry, running(create_app(settings)) as url:

        def client_of(owner: str, **grants: list[str]) -> httpx.Client:
            secret = registry.tokens.create(owner, Grants.parse(grants))[0]
            return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)

        with client_of("ada", acme=["write"]) as ada, client_of("eve", acme=["write"]) as eve:
            upload = begin(ada, "acme/model", {"config.json": b"{}"}).json()["id"]
            assert begin(ada, "other/model", {"config.json": b"{}"}).status_code == 403
            assert [each.get(f"/api/v1/uploads/{upload}").status_code for each in (ada, eve)] == [200, 404]
            assert eve.delete(f"/api/v1/uploads/{upload}").status_code == 404
            assert eve.post(f"/api/v1/uploads/{upload}/complete").status_code == 404
            assert put(eve, upload, "config.json", 1, b"{}").status_code == 404
            assert [len(each.get("/api/v1/uploads").json()) for each in (ada, eve)] == [1, 0]
