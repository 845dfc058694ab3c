"""Uploads as bytes on a socket: refusals before anything is sent, and clients that take their time."""

from __future__ import annotations

import base64
import hashlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.settings import Settings

PART = 2048
DATA = b"x" * PART


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(home=tmp_path_factory.mktemp("wire"), threads=1, upload_part_bytes=PART)
    with running(create_app(settings)) as listening:
        yield listening


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as opened:
        yield opened


def place_of_a_part(client: httpx.Client) -> str:
    body = {"name": "wire/model", "files": [{"path": "model.safetensors", "size": PART}]}
    return f"/api/v1/uploads/{client.post('/api/v1/uploads', json=body).json()['id']}/files/model.safetensors/parts/1"


def head(place: str, length: int, *more: str) -> bytes:
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    lines = [
        f"PUT {place} HTTP/1.1",
        "Host: x",
        f"Content-Digest: sha-256=:{digest}:",
        f"Content-Length: {length}",
        *more,
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def connect(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname or "", place.port or 0), timeout=10)


def answer_to(url: str, request: bytes) -> bytes:
    """The first head that the server answers with."""
    with connect(url) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
        return answer


def test_too_large_a_part_is_refused_before_it_is_sent(client: httpx.Client, url: str) -> None:
    request = head(place_of_a_part(client), 10**12, "Expect: 100-continue")
    assert answer_to(url, request).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("noun", ["adapters", "checkpoints"])
def test_too_large_a_form_is_refused_before_it_is_sent(url: str, noun: str) -> None:
    lines = [f"POST /api/v1/{noun} HTTP/1.1", "Host: x", "Content-Type: multipart/form-data; boundary=x"]
    lines += [f"Content-Length: {10**12}", "Expect: 100-continue", "", ""]
    assert answer_to(url, "\r\n".join(lines).encode()).startswith(b"HTTP/1.1 413")


def test_a_part_that_is_welcome_is_asked_for(client: httpx.Client, url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head(place_of_a_part(client), PART, "Expect: 100-continue", "Connection: close"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(DATA)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")


def test_slow_clients_hold_no_threads(client: httpx.Client, url: str) -> None:
    place = place_of_a_part(client)
    connections = [connect(url) for _ in range(100)]
    try:
        for connection in connections:
            connection.sendall(head(place, PART) + b"xx")
        for _ in range(3):
            assert client.get("/api/v1/artifacts", timeout=5).status_code == 200
        with connect(url) as connection:
            connection.sendall(head(place, PART) + DATA)
            assert connection.recv(65536).startswith(b"HTTP/1.1 201")
    finally:
        for connection in connections:
            connection.close()


def test_a_client_that_goes_away_can_come_back(client: httpx.Client, url: str) -> None:
    place = place_of_a_part(client)
    with connect(url) as connection:
        connection.sendall(head(place, PART) + DATA[:100])
    upload = place.partition("/files/")[0]
    assert client.get(upload).json()["received"] == 0
    assert answer_to(url, head(place, PART) + DATA).startswith(b"HTTP/1.1 201")
    assert client.get(upload).json()["received"] == PART
