"""`python -m benchmarks.service.hub_clients`: releases of huggingface_hub, and vLLM, against a running server.

Each release is installed in an environment of its own, which is kept for the next time, and runs `hub_scenario.py`
three times: as installed (hf_xet included), with files so small that commits carry them; with HF_HUB_DISABLE_XET=1 and
files that go by Git LFS, in parts; and as installed with such files, where releases from 1.20 on are told to set that
variable. With `--vllm PYTHON`, the vLLM of that interpreter is started from the server and completes a prompt with a
base and with an adapter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.api.hub import lfs
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.model import Shape
from graftwork.testing.tiny import tiny_family

SHAPE = Shape(layers=2, hidden=64, intermediate=64, heads=2, key_value_heads=2, context=64, rank=4)
"""vLLM's attention on a CPU wants heads of 32 or more."""
VERSIONS = ("0.36.2", "1.19.0", "1.20.1", "2.4.0")
XET_ONLY_FROM = (1, 20)
INLINE, PART = 20_000, 30_000
ADVICE = "HF_HUB_DISABLE_XET=1"
SCENARIO = Path(__file__).parent / "hub_scenario.py"
START_SECONDS = 300
LAST_WORDS = 6000
BASE, ADAPTER = "acme/base", "acme/adapter"


@dataclass(frozen=True)
class Run:
    """How a scenario went: the steps that it took, and the failure that ended it, if one did."""

    client: str
    xet: bool
    steps: int
    seconds: float
    failure: str | None


def main() -> int:
    """Run what the command line asks for; 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", action="append", help="a release of huggingface_hub; may be repeated")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()), help="where they are kept")
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--only-vllm", action="store_true")
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory(prefix="hub-clients-") as folder:
        root = Path(folder)
        family = tiny_family(root / "family", fine_tunes=0, adapters=1, shape=SHAPE)
        for version in () if arguments.only_vllm else arguments.version or VERSIONS:
            good &= _release(version, _environment(arguments.environments, version), root, family)
        if arguments.vllm:
            good &= _vllm(arguments.vllm, root, family)
    return 0 if good else 1


def _release(version: str, python: str, root: Path, family: Family) -> bool:
    must_be_told = tuple(int(part) for part in version.split(".")[:2]) >= XET_ONLY_FROM
    good = True
    for label, inline, xet in (
        ("as installed", 0, True),
        ("LFS in parts", INLINE, False),
        ("Xet client", INLINE, True),
    ):
        with _server(root / f"{version}-{label}", inline) as url:
            run = _scenario(python, url, root / f"cache-{version}-{label}", family, xet=xet)
        told = run.failure is not None and ADVICE in run.failure
        as_expected = told if must_be_told and xet and inline else run.failure is None
        good &= as_expected
        end = "told to set " + ADVICE if told else run.failure or "all as it should be"
        mark = "" if as_expected else "  <- FAILED"
        print(
            f"{run.client:8} xet={run.xet!s:5} {label:13} {run.steps:3} steps {run.seconds:5.1f} s  {end}{mark}",
            flush=True,
        )
    return good


def _environment(folder: Path, version: str) -> str:
    """The interpreter of an environment that has this release."""
    place = folder / f"hubenv-{version}"
    python = str(place / "bin" / "python")
    if not place.is_dir():
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"huggingface_hub=={version}", "hf_xet"], check=True)
    return python


@contextmanager
def _server(home: Path, inline: int) -> Iterator[str]:
    settings = Settings(home=home, threads=1, hub_inline_bytes=inline or Settings().hub_inline_bytes)
    whole = lfs.PART_BYTES
    lfs.PART_BYTES = PART if inline else whole
    try:
        with running(create_app(settings)) as url:
            yield url
    finally:
        lfs.PART_BYTES = whole


def _scenario(python: str, url: str, cache: Path, family: Family, *, xet: bool) -> Run:
    folders = [str(family.base), str(next(iter(family.adapters.values())))]
    began = time.monotonic()
    done = subprocess.run(
        [python, str(SCENARIO), *folders, "acme"], env=_client(url, cache, xet=xet), capture_output=True, text=True
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failure = next((f"{each['step']}: {each['failed']}: {each['message']}" for each in said if "failed" in each), None)
    if done.returncode and failure is None:
        failure = done.stderr.strip().rpartition("\n")[2]
    first: dict[str, Any] = said[0] if said else {"client": "?", "xet": False}
    return Run(first["client"], first["xet"], len(said) - 1, time.monotonic() - began, failure)


def _client(url: str, cache: Path, *, xet: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRAFTWORK_"))}
    own = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return kept | own | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


def _vllm(python: str, root: Path, family: Family) -> bool:
    """Push a base and an adapter, start vLLM from the server by their names, and complete a prompt with each."""
    from huggingface_hub import HfApi

    with _server(root / "vllm", 0) as url, socket.create_server(("127.0.0.1", 0)) as found:
        api = HfApi(endpoint=url, token="gw_any")
        for name, source in ((BASE, family.base), (ADAPTER, next(iter(family.adapters.values())))):
            folder = root / name.replace("/", "-")
            shutil.copytree(source, folder)
            _say_base(folder / "adapter_config.json")
            api.create_repo(name)
            api.upload_folder(repo_id=name, folder_path=folder)
        port = found.getsockname()[1]
        found.close()
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", BASE, "--port", str(port)]
        command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "64", "--enforce-eager"]
        command += ["--enable-lora", "--lora-modules", f"{ADAPTER}={ADAPTER}"]
        own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        own["OMP_NUM_THREADS"] = "1"
        environment = _client(url, root / "cache-vllm", xet=True) | own
        log = root / "vllm.log"
        began = time.monotonic()
        with log.open("w") as output:
            server = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            answers = _complete(server, f"http://127.0.0.1:{port}", (BASE, ADAPTER))
            said = log.read_text()[-LAST_WORDS:]
        finally:
            server.terminate()
            server.wait(60)
        if answers is None:
            print(f"vLLM did not answer:\n{said}", file=sys.stderr)
            return False
        print(f"vLLM from {url}: {answers} after {time.monotonic() - began:.0f} s")
        return len(set(answers.values())) == len(answers)


def _say_base(config: Path) -> None:
    """Let an adapter's configuration name its base as the server knows it."""
    if config.exists():
        told = json.loads(config.read_text())
        config.write_text(json.dumps({**told, "base_model_name_or_path": BASE}))


def _complete(server: subprocess.Popen[bytes], url: str, models: Sequence[str]) -> dict[str, str] | None:
    """What each of `models` says; None when the server does not come up, or has no answer."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == HTTPStatus.OK:
                return {model: _said(url, model) for model in models}
        except httpx.HTTPStatusError:
            return None
        except httpx.TransportError:
            pass
        time.sleep(1)
    return None


def _said(url: str, model: str) -> str:
    body = {"model": model, "prompt": "ab", "max_tokens": 8, "temperature": 0, "logprobs": 1}
    answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()
    choice = answer["choices"][0]
    return f"{choice['text']!r} {choice['logprobs']['token_logprobs'][0]:.4f}"


if __name__ == "__main__":
    sys.exit(main())
