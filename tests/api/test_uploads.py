"""`POST /api/v1/adapters`: what is taken, what is refused, and that a refused upload leaves nothing."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import load, save

if TYPE_CHECKING:
    from tests.api.conftest import Files, Server

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture
def unchanged(server: Server) -> Iterator[None]:
    """The registry's files and artifacts are the same after the test."""

    def state() -> tuple[set[str], list[str]]:
        files = (path for path in server.registry.home.rglob("*") if path.is_file())
        artifacts = [str(artifact.name) for artifact in server.registry.catalog.list()]
        return {str(path) for path in files if "registry.db" not in path.name}, artifacts

    before = state()
    yield
    assert state() == before


def post(client: httpx.Client, files: Files | list[Any], **fields: str) -> httpx.Response:
    return client.post("/api/v1/adapters", data=fields, files=files)


def weights(server: Server, adapter: str = "adapter0") -> bytes:
    return (server.family.adapters[adapter] / WEIGHTS).read_bytes()


def test_an_adapter_is_registered_with_its_lineage(server: Server, client: httpx.Client) -> None:
    response = post(client, server.upload("adapter0"), name="up/good", base="tiny/base")
    assert response.status_code == 201
    version = response.json()
    assert response.headers["location"] == "/api/v1/artifacts/up/good/versions/v1"
    assert response.headers["etag"] == f'"{version["digest"]}"'
    assert version["base"] == server.digest("tiny/base")
    detail = client.get(response.headers["location"]).json()
    assert [(parent["ref"], parent["relation"]) for parent in detail["parents"]] == [("tiny/base@v1", "adapter_of")]
    assert detail["digest"] == version["digest"]


def test_the_same_upload_again_is_the_same_version(server: Server, client: httpx.Client) -> None:
    answers = [post(client, server.upload("adapter1"), name="up/twice", base="tiny/base") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert [answer.json()["already_there"] for answer in answers] == [False, True]
    assert answers[1].json() == answers[0].json() | {"already_there": True}


def test_an_upload_can_move_an_alias(server: Server, client: httpx.Client) -> None:
    for adapter in ("adapter0", "adapter1"):
        answer = post(client, server.upload(adapter), name="up/moving", base="tiny/base", alias="prod")
        assert answer.status_code == 201
        assert server.digest("up/moving@prod") == answer.json()["digest"]
    moves = client.get("/api/v1/artifacts/up/moving/aliases/prod/history").json()
    assert [move["reason"] for move in moves] == ["uploaded v1", "uploaded v2"]


@pytest.mark.usefixtures("unchanged")
def test_a_field_that_no_upload_has_is_refused(server: Server, client: httpx.Client) -> None:
    answer = post(client, server.upload("adapter0"), name="up/typo", base="tiny/base", aliass="prod")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("aliass: there is no such form field; there is name, base, alias")


def test_an_uploaded_adapter_answers(server: Server, client: httpx.Client) -> None:
    digest = post(client, server.upload("adapter2"), name="up/answers", base="tiny/base").json()["digest"]
    body = {"model": "up/answers", "prompt": "abc", "max_tokens": 3}
    assert client.post("/v1/completions", json=body).headers["x-graftwork-version"] == digest


def nan(data: bytes) -> bytes:
    tensors = load(data)
    next(iter(tensors.values()))[0, 0] = torch.nan
    return save(tensors)


def overlapping(data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def reshaped(data: bytes) -> bytes:
    """Another width than the base's: an adapter for another base."""
    return save({name: torch.zeros(t.shape[0], 48) if "lora_A" in name else t for name, t in load(data).items()})


def of_other_rank(data: bytes) -> bytes:
    """B has one rank row more than A."""
    grown = {name: torch.zeros(t.shape[0], t.shape[1] + 1) if "lora_B" in name else t for name, t in load(data).items()}
    return save(grown)


def renamed(data: bytes) -> bytes:
    return save({name.replace("layers.1.", "layers.7."): tensor for name, tensor in load(data).items()})


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        (lambda data: data[:-100], 422, "invalid_safetensors"),
        (overlapping, 422, "invalid_safetensors"),
        (lambda data: pickle.dumps({"weights": [1.0]}), 422, "unsafe_file"),
        (lambda data: b"", 422, "invalid_safetensors"),
        (reshaped, 422, "incompatible_adapter"),
        (renamed, 422, "incompatible_adapter"),
        (of_other_rank, 422, "invalid_adapter"),
        (nan, 422, "non_finite_tensor"),
    ],
    ids=["truncated", "overlapping", "pickle", "empty", "another base", "unknown layer", "rank mismatch", "nan"],
)
def test_weights_that_cannot_be_used_are_refused(
    server: Server, client: httpx.Client, change: Any, status: int, code: str
) -> None:
    files = server.upload("adapter0")
    files[1] = ("files", (WEIGHTS, change(weights(server))))
    answer = post(client, files, name="up/bad", base="tiny/base")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(server.registry.home) not in answer.text


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "training_args.bin",
        "code.py",
        "../escape.json",
        "/etc/passwd",
        "a\\b.json",
        ".hidden",
        "a b.json",
        "",
    ],
)
def test_a_file_that_is_not_data_or_not_plainly_named_is_refused(
    server: Server, client: httpx.Client, name: str
) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nup/bad\r\n'
        b'--x\r\nContent-Disposition: form-data; name="base"\r\n\r\ntiny/base\r\n'
    )
    for file, content in ((name, b"data"), *(part[1] for part in server.upload("adapter0"))):
        disposition = f'Content-Disposition: form-data; name="files"; filename="{file}"'.encode()
        body += b"--x\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/v1/adapters", content=body + b"--x--\r\n", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_file")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("size", [1_000_001, 30_000_000])
def test_more_than_the_limit_is_refused_on_the_way(server: Server, client: httpx.Client, size: int) -> None:
    files = [*server.upload("adapter0"), ("files", ("big.json", bytes(size)))]
    answer = post(client, files, name="up/big", base="tiny/base")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"base": "tiny/base"}, 422, "invalid_request"),
        ({"name": "no-namespace", "base": "tiny/base"}, 422, "invalid_name"),
        ({"name": "up/bad", "base": "tiny/nothing"}, 404, "artifact_not_found"),
        ({"name": "up/bad", "base": "tiny/a"}, 422, "incompatible_adapter"),
        ({"name": "tiny/base", "base": "tiny/base"}, 409, "kind_conflict"),
        ({"name": "up/bad", "base": "tiny/base", "alias": "latest"}, 422, "invalid_name"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(
    server: Server, client: httpx.Client, fields: dict[str, str], status: int, code: str
) -> None:
    answer = post(client, server.upload("adapter0"), **fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("missing", [0, 1])
def test_half_an_adapter_is_refused(server: Server, client: httpx.Client, missing: int) -> None:
    files = server.upload("adapter0")
    del files[missing]
    answer = post(client, files, name="up/half", base="tiny/base")
    assert answer.status_code == 422
    assert "the upload" in answer.json()["detail"] or CONFIG in answer.json()["detail"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/json"),
        (b"--x\r\n", "multipart/form-data"),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nup/cut', "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\nup/cut\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    ],
)
def test_a_body_that_is_no_whole_form_is_refused(client: httpx.Client, content: bytes, kind: str) -> None:
    answer = client.post("/api/v1/adapters", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.usefixtures("unchanged")
def test_the_same_file_twice_is_refused(server: Server, client: httpx.Client) -> None:
    files = server.upload("adapter0")
    answer = post(client, [*files, ("files", ("Adapter_Config.json", b"{}"))], name="up/bad", base="tiny/base")
    assert (answer.status_code, answer.json()["code"]) == (422, "unsafe_file")
