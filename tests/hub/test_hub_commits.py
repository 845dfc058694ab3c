"""Commits: which become versions, which are drafts, which are refused, and what is sent before them."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from graftwork.api.hub import signing
from graftwork.api.hub.signing import Grant
from graftwork.registry.storage.references import drafted

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def message(answer: httpx.Response) -> str:
    said: str = answer.json()["error"]
    return said


def test_a_commit_is_a_version_once_its_tree_is_whole(hub: Hub, new_repository: str, adapter: Path) -> None:
    first = hub.commit(new_repository, hub.file(CONFIG, (adapter / CONFIG).read_bytes())).json()
    assert first["hookOutput"] == "a draft: it has no adapter_model.safetensors"
    assert hub.api.list_repo_refs(new_repository).tags == []
    assert hub.api.hf_hub_download(new_repository, CONFIG, cache_dir=adapter.parent / "cache")
    held = hashlib.sha256((adapter / CONFIG).read_bytes()).hexdigest()
    with hub.registry.database.read() as session:
        assert held in drafted(session)
    oid = hub.upload(new_repository, (adapter / WEIGHTS).read_bytes())
    second = hub.commit(new_repository, hub.large(WEIGHTS, oid), parent=first["commitOid"]).json()
    version = hub.registry.catalog.resolve(new_repository)
    assert (second["commitOid"], second["hookOutput"]) == (version.revision, f"registered as {version.ref}")
    assert version.base == hub.registry.catalog.resolve("tiny/base").digest
    assert {file.path for file in version.files} == {CONFIG, WEIGHTS}


def test_what_can_never_be_a_version_is_refused(hub: Hub, new_repository: str, adapter: Path) -> None:
    refused: dict[str, tuple[bytes, str]] = {
        "pytorch_model.bin": (b"x", "can run code"),
        "modeling_x.py": (b"x", "code is not accepted"),
        "config.json": (b'{"auto_map": {"AutoModel": "x.Y"}}', "auto_map"),
        "model.safetensors": (b"\x80\x04x", "pickle"),
        "../x.json": (b"{}", "not a plain relative path"),
        "/x.json": (b"{}", "not a plain relative path"),
        "weird.exe": (b"x", "are accepted"),
        CONFIG: (b'{"peft_type": "LORA", "base_model_name_or_path": "/models/base"}', "not in this registry"),
    }
    before = hub.api.model_info(new_repository).sha
    for path, (content, reason) in refused.items():
        answer = hub.commit(new_repository, hub.file(path, content))
        assert answer.status_code in (400, 422), path
        assert reason in message(answer), path
    assert hub.api.model_info(new_repository).sha == before
    # whole, but not an adapter of its base
    config = (adapter / CONFIG).read_bytes()
    weights = (adapter / WEIGHTS).read_bytes()
    broken = hub.commit(new_repository, hub.file(CONFIG, config), hub.file(WEIGHTS, weights[:-4]))
    assert broken.status_code in (413, 422)
    assert str(hub.registry.home) not in message(broken)
    assert hub.api.model_info(new_repository).sha == before


def test_stale_and_repeated_commits(hub: Hub, new_repository: str) -> None:
    empty = hub.api.model_info(new_repository).sha
    first = hub.commit(new_repository, hub.file("a.txt", b"1"), parent=empty)
    again = hub.commit(new_repository, hub.file("a.txt", b"1"), parent=empty)
    assert first.json()["commitOid"] == again.json()["commitOid"]
    stale = hub.commit(new_repository, hub.file("a.txt", b"2"), parent=empty)
    assert stale.status_code == 412
    assert "fetch it and commit again" in message(stale)
    short = hub.commit(new_repository, hub.file("a.txt", b"2"), parent=first.json()["commitOid"][:8])
    assert short.status_code == 200
    absent = hub.commit(new_repository, {"key": "deletedFile", "value": {"path": "b.txt"}})
    assert (absent.status_code, absent.headers["x-error-code"]) == (404, "EntryNotFound")
    gone = hub.commit(new_repository, {"key": "deletedFile", "value": {"path": "a.txt"}})
    assert gone.status_code == 200
    assert hub.api.list_repo_files(new_repository) == []


def test_commits_beside_each_other_all_count(hub: Hub, new_repository: str) -> None:
    def add(number: int) -> int:
        return hub.commit(new_repository, hub.file(f"{number}.txt", b"x")).status_code

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(add, range(6))) == {200}
    assert sorted(hub.api.list_repo_files(new_repository)) == [f"{number}.txt" for number in range(6)]


def test_other_branches_and_pull_requests_are_refused(hub: Hub, new_repository: str) -> None:
    line = b'{"key": "header", "value": {"summary": "x"}}\n'
    for place in ("commit/dev", "commit/refs%2Fpr%2F1", "commit/main?create_pr=1"):
        answer = hub.client().post(f"/api/models/{new_repository}/{place}", content=line)
        assert answer.status_code == 400
        assert "main" in message(answer)


LINES: list[Any] = [
    {"key": "file"},
    {"key": "file", "value": {"path": "a.txt", "content": "*"}},
    {"key": "file", "value": {"path": "a.txt", "content": 1}},
    {"key": "file", "value": {"content": ""}},
    {"key": "file", "value": {"path": "\ud800", "content": ""}},
    {"key": "lfsFile", "value": {"path": "a.txt", "oid": "../../x"}},
    {"key": "lfsFile", "value": {"path": "a.txt", "oid": "0" * 64}},
    {"key": "unknown", "value": {"path": "a.txt"}},
    {"key": 1, "value": {}},
    {"key": "header", "value": {"summary": 5, "parentCommit": 5}},
    {"key": "header", "value": {"parentCommit": ""}},
    {"key": "file", "value": {"path": "big.txt", "content": "A" * 100_000}},
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_malformed_lines_are_the_senders_fault(hub: Hub, new_repository: str, line: dict[str, Any]) -> None:
    assert 400 <= hub.commit(new_repository, line).status_code < 500
    assert hub.api.list_repo_files(new_repository) == []


def test_a_digest_gives_nobody_what_others_sent(hub: Hub, new_repository: str) -> None:
    weights = hub.registry.catalog.resolve("tiny/base").files
    (other,) = [file.sha256 for file in weights if file.path == "model.safetensors"]
    answer = hub.commit(new_repository, hub.large("model.safetensors", other))
    assert answer.status_code == 400
    assert "was not uploaded" in message(answer)
    wanted = {"operation": "upload", "objects": [{"oid": other, "size": 95408}]}
    batch = hub.client().post(f"/{new_repository}.git/info/lfs/objects/batch", json=wanted).json()
    assert "actions" in batch["objects"][0]


def test_links_are_good_for_one_object(hub: Hub, new_repository: str) -> None:
    content = b"0123456789"
    oid, client, home = hashlib.sha256(content).hexdigest(), hub.client(), hub.registry.home
    grant = Grant(new_repository.lower(), oid, len(content))
    good = signing.sign(home, grant)
    for bad in (good[:-2] + "AA", "x" + good, "." + good, signing.sign(home.parent, grant)):
        assert client.put(f"/api/hub/lfs/{bad}", content=content).status_code == 401
    late = signing.sign(home, grant, now=time.time() - signing.GOOD_SECONDS - 5)
    assert client.put(f"/api/hub/lfs/{late}", content=content).status_code == 401
    assert client.put(f"/api/hub/lfs/{good}", content=b"9876543210").status_code == 422
    assert client.put(f"/api/hub/lfs/{good}", content=b"short").status_code == 400
    assert client.put(f"/api/hub/lfs/{good}", content=content * 2).status_code == 413
    for _ in range(2):
        assert client.put(f"/api/hub/lfs/{good}", content=content).status_code == 200
    assert hub.upload(new_repository, content) == oid
    assert hub.commit(new_repository, hub.large("ten.txt", oid)).status_code == 200
    assert not [path for path in (home / "lfs").rglob("*") if path.is_file()]


def test_parts_must_all_come_and_make_the_object(hub: Hub, new_repository: str) -> None:
    content = bytes(70_000)
    oid, client = hashlib.sha256(content).hexdigest(), hub.client()
    wanted = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
    batch = client.post(f"/{new_repository}.git/info/lfs/objects/batch", json=wanted).json()
    upload = batch["objects"][0]["actions"]["upload"]
    missing = client.post(upload["href"], json={"oid": oid, "parts": []})
    assert (missing.status_code, "part 1 of 3 has not come" in message(missing)) == (400, True)
    for number in ("00001", "00002", "00003"):
        size = 30_000 if number != "00003" else 10_000
        assert client.put(upload["header"][number], content=b"x" * size).status_code == 200
    assert client.post(upload["href"], json={"oid": oid, "parts": []}).status_code == 422
    assert hub.upload(new_repository, content) == oid
