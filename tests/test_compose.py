"""`docker-compose.yml` and `Dockerfile` say what this code understands."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from click.testing import CliRunner

from graftwork.cli.main import main
from graftwork.client import Client, adapters, jobs, uploads
from graftwork.registry.storage.address import Address
from graftwork.settings import load_settings
from graftwork.testing.object_storage import ObjectStorage
from graftwork.testing.postgres import PostgresServer
from graftwork.testing.tiny import tiny_family

ROOT = Path(__file__).parent.parent
OURS = ("api", "worker")
SUBSTITUTED = re.compile(r"\$\{[A-Z_]+:-([^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text()
    loaded: dict[str, Any] = yaml.safe_load(SUBSTITUTED.sub(r"\1", text))
    return loaded


@pytest.mark.parametrize("service", OURS)
def test_the_environment_is_made_of_settings(
    compose: dict[str, Any], service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = compose["services"][service]["environment"]
    for name, value in variables.items():
        assert name.startswith(("GRAFTWORK_", "AWS_"))
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.database.startswith("postgresql://graftwork:graftwork@database/")
    address = Address.parse(settings.storage_url)
    assert address.endpoint == "http://storage:9000"
    assert not address.redirects
    assert settings.auth == "required"


@pytest.mark.parametrize("service", OURS)
def test_the_commands_are_commands(compose: dict[str, Any], service: str) -> None:
    program, *arguments = compose["services"][service]["command"]
    assert program == "graft"
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0, result.output


def test_services_volumes_and_buckets_are_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
    address = Address.parse(services["api"]["environment"]["GRAFTWORK_STORAGE_URL"])
    assert services["bucket"]["command"][-1] == f"storage/{address.bucket}"
    keys = services["storage"]["environment"]
    assert services["api"]["environment"]["AWS_SECRET_ACCESS_KEY"] == keys["MINIO_ROOT_PASSWORD"]


def test_the_image_installs_what_the_services_need(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert '".[postgres,s3]"' in text
    for name, value in re.findall(r"(GRAFTWORK_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value)
    assert load_settings().authenticated


def test_the_services_work_together(
    compose: dict[str, Any], postgres: PostgresServer, object_storage: ObjectStorage, tmp_path: Path
) -> None:
    """Their own commands in their own environments, but for where the others are."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE graftwork LOGIN")
        connection.execute("CREATE DATABASE graftwork OWNER graftwork")
    database = postgres.url.replace("postgres@/postgres", "graftwork:graftwork@/graftwork")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]

    def start(service: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        env = {**os.environ, "GRAFTWORK_HOME": str(tmp_path / service), "GRAFTWORK_PORT": str(port)}
        for name, value in compose["services"][service]["environment"].items():
            value = database if "@database/" in value else value
            env[name] = value.replace("http://storage:9000", object_storage.endpoint)
        program = {"graft": ["-m", "graftwork.cli"], "python": []}[command[0]]
        return subprocess.Popen([sys.executable, *program, *command[1:]], env=env, stdout=subprocess.PIPE)

    running = {service: start(service, compose["services"][service]["command"]) for service in OURS}
    try:
        check = [part.replace(":8000", f":{port}") for part in compose["services"]["api"]["healthcheck"]["test"][1:]]
        healthy = False
        while not healthy:
            assert running["api"].poll() is None
            with start("api", check) as asking:
                healthy = asking.wait() == 0
        with start("api", ["graft", "tokens", "create", "me", "--grant", "*=admin"]) as creating:
            secret = re.search(r"gw_[A-Za-z0-9_-]+", creating.communicate()[0].decode())
        assert secret is not None
        family = tiny_family(tmp_path / "family", fine_tunes=0, adapters=1)
        with Client(f"http://127.0.0.1:{port}", token=secret[0]) as client:
            client(uploads.send("tiny/base", family.base))
            client(adapters.upload("tiny/a", family.adapters["adapter0"], base="tiny/base"))
            recipe = {"merge_method": "linear", "models": [{"model": "tiny/base+tiny/a", "parameters": {"weight": 1}}]}
            made = client.wait(client(jobs.merge(recipe, name="tiny/merged")).id)
        assert made.state == "succeeded", made
        assert [process.poll() for process in running.values()] == [None, None]
    finally:
        for process in running.values():
            process.terminate()
            process.communicate(timeout=60)
