"""What a fleet cannot be started with."""

import subprocess
import sys

import pytest

from graftwork.adapters.fleet.host import FleetHost
from graftwork.errors import InvalidSetting
from graftwork.registry.registry import Registry
from graftwork.settings import Settings


@pytest.mark.parametrize("urls", ["", " , ", "10.0.0.1:8000", "http://a,b"])
def test_urls_are_urls(home: object, urls: str) -> None:
    settings = Settings(home=home, engine="vllm", engine_urls=urls)  # type: ignore[arg-type]
    with Registry.open(settings) as registry, pytest.raises(InvalidSetting, match="engine_urls"):
        FleetHost(registry, settings)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--engine", "vllm"), "--engine-url"), (("--engine", "torch"), "'vllm'")],
)
def test_the_command_says_what_is_missing(arguments: tuple[str, ...], told: str) -> None:
    command = [sys.executable, "-m", "graftwork.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, told in done.stderr) == (2, True)
