"""`docker-compose.yml` and `Dockerfile` say what this code understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from graftwork.cli.main import main
from graftwork.registry.storage.address import Address
from graftwork.settings import load_settings

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
