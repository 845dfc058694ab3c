"""The Hub's protocol on the wire: what is read, from which paths, and what malformed requests are told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graftwork.api.hub import reading
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

WEIGHTS = "/tiny/base/resolve/main/model.safetensors"


def test_a_file_whole_and_in_ranges(hub: Hub, client: httpx.Client) -> None:
    bytes_ = (hub.family.base / "model.safetensors").read_bytes()
    version = hub.registry.catalog.resolve("tiny/base")
    head = client.head(WEIGHTS)
    etag = f'"{hashlib.sha256(bytes_).hexdigest()}"'
    assert head.headers["etag"] == head.headers["x-linked-etag"] == etag
    assert int(head.headers["content-length"]) == int(head.headers["x-linked-size"]) == len(bytes_)
    assert head.headers["x-repo-commit"] == version.revision
    assert head.headers["accept-ranges"] == "bytes"
    assert client.get(WEIGHTS).content == bytes_
    part = client.get(WEIGHTS, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes_[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(bytes_)}"
    assert client.get(WEIGHTS, headers={"Range": f"bytes={len(bytes_)}-"}).status_code == 416
    assert client.get(WEIGHTS, headers={"If-None-Match": etag}).status_code == 304
    assert "content-encoding" not in client.get(WEIGHTS, headers={"Accept-Encoding": "gzip"}).headers


def test_every_spelling_of_a_revision(hub: Hub, client: httpx.Client) -> None:
    version = hub.registry.catalog.resolve("tiny/base")
    hub.registry.aliases.set(version.name, "prod", version.digest)
    for revision in ("main", "refs%2Fheads%2Fmain", "prod", "v1", version.revision, version.digest):
        found = client.head(f"/tiny/base/resolve/{revision}/config.json")
        assert (found.status_code, found.headers.get("x-repo-commit")) == (200, version.revision), revision
    for revision in ("v9", "absent", "refs%2Fpr%2F1", "0" * 40):
        missing = client.get(f"/tiny/base/resolve/{revision}/config.json")
        assert (missing.status_code, missing.headers["x-error-code"]) == (404, "RevisionNotFound"), revision


@pytest.mark.parametrize(
    "path",
    ["absent.json", "..%2f..%2fregistry.db", "%2e%2e/%2e%2e/registry.db", "%252e%252e/x", "config.json/x", "a%00b"],
)
def test_what_is_no_file_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/tiny/base/resolve/main/{path}")
    assert answer.status_code == 404
    if "%00" not in path:
        assert answer.headers.get("x-error-code") == "EntryNotFound"
        assert len(answer.headers["x-repo-commit"]) == 40


def test_nothing_else_is_hidden(hub: Hub, client: httpx.Client) -> None:
    for path in ("/healthz", "/docs", "/v1/models", "/api/v1/artifacts"):
        assert client.get(path).status_code == 200, path
    assert client.get("/api/v1/resolve/main/config.json").headers["content-type"] == "application/problem+json"
    assert client.get("/nothing/here").headers["content-type"] == "application/problem+json"
    assert client.post("/api/v1/artifacts").status_code == 405
    assert client.delete("/api/models/tiny/base").status_code == 405


def test_a_card_is_made_for_a_version_without_one(hub: Hub, client: httpx.Client) -> None:
    card = client.get("/tiny/base/resolve/main/README.md")
    assert card.text.startswith("---\nlibrary_name: transformers\n")
    (listed,) = [
        entry for entry in client.get("/api/models/tiny/base/tree/main").json() if entry["path"] == "README.md"
    ]
    assert listed["lfs"]["oid"] == hashlib.sha256(card.content).hexdigest() == card.headers["etag"].strip('"')
    assert "README.md" not in {file.path for file in hub.registry.catalog.resolve("tiny/base").files}


def test_a_tree_comes_in_pages(hub: Hub, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE", 2)
    listed = {entry.path for entry in hub.api.list_repo_tree("tiny/base", recursive=True)}
    assert listed == {"README.md", *(file.path for file in hub.registry.catalog.resolve("tiny/base").files)}
    missing = client.get("/api/models/tiny/base/tree/main/absent")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "EntryNotFound")


def test_models_are_listed_in_pages(hub: Hub, client: httpx.Client) -> None:
    page = client.get("/api/models", params={"limit": "1"})
    assert len(page.json()) == 1
    assert "/api/models?" in page.headers.get("link", "") or page.json()[0]["id"] == "tiny/base"
    assert [model.id for model in hub.api.list_models(author="tiny", search="BASE")] == ["tiny/base"]
    assert list(hub.api.list_models(search="absent-from-all")) == []
    for odd in ("%00", "\ud800".encode("utf-8", "surrogatepass").hex(), "x" * 5000):
        assert client.get(f"/api/models?search={odd}&limit=-1&cursor=%ff").status_code < 500


@pytest.mark.parametrize("kind", ["datasets", "spaces"])
def test_there_are_models_only(client: httpx.Client, kind: str) -> None:
    missing = client.get(f"/api/{kind}/acme/x")
    assert (missing.status_code, missing.headers["x-error-code"]) == (404, "RepoNotFound")
    refused = client.post("/api/repos/create", json={"name": "x", "organization": "acme", "type": kind[:-1]})
    assert refused.status_code == 400


BODIES: list[Any] = [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"files": 1}', b'{"files": [1]}', b'{"name": 1}']


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_malformed_bodies_are_the_senders_fault(client: httpx.Client, body: bytes) -> None:
    for method, path in (
        ("POST", "/api/repos/create"),
        ("DELETE", "/api/repos/delete"),
        ("PUT", "/api/models/tiny/base/settings"),
        ("POST", "/api/models/tiny/base/preupload/main"),
        ("POST", "/api/models/tiny/base/tag/main"),
        ("POST", "/tiny/base.git/info/lfs/objects/batch"),
        ("PUT", "/api/hub/lfs/x.y"),
    ):
        assert 400 <= client.request(method, path, content=body).status_code < 500, (method, path)
    assert client.post("/api/models/tiny/base/paths-info/main", content=body).status_code < 500


def test_a_body_has_a_limit(client: httpx.Client) -> None:
    answer = client.post("/api/models/tiny/base/preupload/main", content=b" " * (5 << 20))
    assert answer.status_code == 413


def test_a_client_that_goes_away_while_it_sends_is_no_failure(hub: Hub) -> None:
    class Gone(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"{"
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        hub.client().post("/api/models/tiny/base/preupload/main", content=Gone())
    until(lambda: 'status="499"' in hub.client().get("/metrics").text)
