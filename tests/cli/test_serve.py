"""`graft serve` in a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Graft


def test_serve_says_where_answers_and_stops_quietly(home: Path) -> None:
    command = [sys.executable, "-m", "graftwork.cli", "serve", "--port", "0", "--home", str(home)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            url = line.split(" on ")[1].split()[0]
            assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
            assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny/a"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert str(home) in line
    *others, logged = error.strip().splitlines()
    assert (process.returncode, out, others) == (130, "", [])
    assert "GET /v1/models 200" in logged


def test_a_worker_that_is_stopped_ends_as_a_server_does(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "graftwork.cli", "worker", "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        try:
            assert str(home) in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()


def test_a_busy_port_is_one_sentence(graft: Graft) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = graft("serve", "--port", str(port))
    assert told.code == 1
    assert told.stderr == f"error: The server could not be started on 127.0.0.1:{port}: Address already in use.\n"


def test_an_address_that_others_reach_asks_for_tokens(graft: Graft) -> None:
    elsewhere = ("serve", "--host", "192.0.2.1")  # nobody has this address, so it is not bound
    told = graft(*elsewhere)
    assert told.code == 1
    assert "Every request needs a token, and there is none" in told.stderr
    assert "token" not in graft(*elsewhere, "--insecure").stderr
    assert graft("tokens", "create", "ada", "--grant", "*=admin").stdout.startswith("gw_")
    assert "token" not in graft(*elsewhere).stderr


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("GRAFTWORK_MAX_QEUE", "3", "expected no setting of this name (did you mean GRAFTWORK_MAX_QUEUE?)"),
        ("GRAFTWORK_PORT", "99999", "The setting GRAFTWORK_PORT is 99999: expected 0 to 65535"),
        ("GRAFTWORK_TENANT_WEIGHTS", "ada=much", "expected tenants and their positive weights"),
    ],
)
def test_a_setting_that_is_none_is_refused_before_anything_is_served(
    graft: Graft, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    refused = graft("serve", *(() if variable.endswith("PORT") else ("--port", "0")))
    assert refused.code == 2
    assert told in refused.stderr


def test_what_kubernetes_says_of_a_service_named_graftwork_is_no_setting(
    graft: Graft, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = {"PORT": "tcp://10.0.0.9:8000", "PORT_8000_TCP_ADDR": "10.0.0.9", "SERVICE_HOST": "10.0.0.9"}
    for name, value in links.items():
        monkeypatch.setenv(f"GRAFTWORK_{name}", value)
    assert graft("ls").code == 0
