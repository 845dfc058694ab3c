"""The README's own commands, run in its order against small models."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from graftwork.cli.main import COMMANDS
from graftwork.merge.method import methods
from graftwork.testing.tiny import tiny_family

README = (Path(__file__).parents[1] / "README.md").read_text()
SERVED_ON = "127.0.0.1:8000"
MODIFIERS = ("lines", "consensus")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every `$` line of the console blocks, with its continuations."""
    text = "\n".join(blocks("console"))
    return [match.replace("\\\n", " ") for match in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, flags=re.MULTILINE)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which everything lies that the README speaks of."""
    family = tiny_family(tmp_path / "family", fine_tunes=2, adapters=2)
    (tmp_path / "llama-3").symlink_to(family.base)
    (tmp_path / "support-lora").symlink_to(family.adapters["adapter0"])
    (tmp_path / "support-lora-2").symlink_to(family.adapters["adapter1"])
    (tmp_path / "recipe.yaml").write_text(blocks("yaml")[0])
    for name, folder in zip(("llama-math", "llama-code"), family.fine_tunes.values(), strict=True):
        (tmp_path / name).symlink_to(folder)
    return tmp_path


@contextmanager
def serving(place: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    with subprocess.Popen(
        ["graft", "serve", "--port", str(port)], cwd=place, env=environment, stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        try:
            server.stderr.readline()
            yield
        finally:
            server.terminate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_of_the_readme_does_what_it_says(place: Path) -> None:
    port = free_port()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "GRAFTWORK_HOME": str(place / "home")}

    def run(command: str) -> str:
        command = command.replace(SERVED_ON, f"127.0.0.1:{port}").replace("curl ", "curl -sS --fail-with-body ")
        done = subprocess.run(
            ["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    told: dict[str, str] = {}
    steps = [step for step in commands() if not step.startswith(("make ", "pip ")) and "hf:" not in step]
    served = steps.index("graft serve")
    for step in steps[:served]:
        told[step] = run(step)
    assert "acme/llama-both" in told["graft lineage acme/llama-both"]
    assert (place / "out" / "model.safetensors").is_file()
    with serving(place, environment, port):
        for step in steps[served + 1 :]:
            told[step] = run(step)
        scripts = [block.replace(SERVED_ON, f"127.0.0.1:{port}") for block in blocks("python")]
        first = run(f"{shlex.quote(sys.executable)} -c {shlex.quote(scripts[0])}")
        aliases = httpx.get(f"http://127.0.0.1:{port}/api/v1/artifacts/acme/support/aliases").json()
        merged = run(f"{shlex.quote(sys.executable)} -c {shlex.quote(scripts[1])}")
    assert {entry["alias"]: entry["digest"] for entry in aliases} == {"prod": first.splitlines()[0]}
    assert merged.strip() == "acme/merged@v1"


def test_the_readme_names_every_merge_method() -> None:
    table = "\n".join(line for line in README.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", table)) == {*methods(), *MODIFIERS}


def test_the_readme_names_only_commands_that_exist() -> None:
    used = {command.split()[1] for command in commands() if command.startswith("graft ")}
    assert used
    assert used <= set(COMMANDS)
