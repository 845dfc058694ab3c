"""The gateway and the plugin with a real vLLM server: --vllm-python or GRAFTWORK_VLLM_PYTHON names its interpreter."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from graftwork.registry.refs import Name, Ref
from graftwork.registry.transfer.importer import import_source
from graftwork.testing.model import load_adapted_model, load_model, with_new_adapter
from graftwork.testing.tiny import TINY
from graftwork.testing.waiting import until

if TYPE_CHECKING:
    from graftwork.testing.family import Family
    from tests.fleet.conftest import Gateway

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 400
PROMPT = [7, 8, 9, 10]
TOKENS = 12
WIDE = replace(TINY, hidden=128, intermediate=256, rank=32)


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> str:
    found: str = request.config.getoption("--vllm-python")
    if not found:
        pytest.skip("needs a vLLM: name its interpreter with --vllm-python or GRAFTWORK_VLLM_PYTHON")
    if subprocess.run([found, "-c", "import vllm"], capture_output=True, check=False).returncode != 0:
        pytest.fail(f"{found} cannot import vllm")
    return found


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def gateway(
    python: str, port: int, family: Family, tmp_path_factory: pytest.TempPathFactory, open_gateway: Callable[..., Any]
) -> Iterator[Gateway]:
    """A gateway before one vLLM server, which pulls its adapters from that gateway."""
    with ExitStack() as stack:
        gateway = stack.enter_context(open_gateway([f"http://127.0.0.1:{port}"]))
        wide = tmp_path_factory.mktemp("wide")
        with_new_adapter(load_model(family.base), WIDE, seed=0).save_pretrained(str(wide))
        import_source(gateway.registry, str(wide), Name.parse("tiny/wide"), base=Ref.parse("tiny/base"))
        stack.enter_context(vllm(python, port, family.base, gateway.url, tmp_path_factory.mktemp("vllm")))
        deadline = time.monotonic() + START_SECONDS
        while not gateway.host.fleet.serving(gateway.digest("tiny/base")):
            assert time.monotonic() < deadline, gateway.host.fleet.status()
            time.sleep(0.5)
        yield gateway


@contextmanager
def vllm(python: str, port: int, model: Path, url: str, folder: Path) -> Iterator[None]:
    """A server of `model` in float32 with this tree's plugin, as `pip install graftwork` would make it known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["vllm.general_plugins"]
    known = folder / "site" / "graftwork-0.0.0.dist-info"
    known.mkdir(parents=True)
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: graftwork\nVersion: 0.0.0\n")
    lines = [f"{name} = {place}" for name, place in points.items()]
    (known / "entry_points.txt").write_text("\n".join(["[vllm.general_plugins]", *lines, ""]))
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--served-model-name", "tiny/base", "--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager"]
    command += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "16", "--max-model-len", "128"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(known.parent), str(ROOT / "src")]),
        "GRAFTWORK_URL": url,
        "GRAFTWORK_ADAPTER_CACHE": str(folder / "cache"),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            yield
        finally:
            server.terminate()
            server.wait(timeout=60)
            shutil.rmtree(folder / "cache", ignore_errors=True)


@pytest.fixture(scope="module")
def alone(family: Family) -> Callable[[str | None], list[int]]:
    """What the base, or an adapter, says by transformers and PEFT."""

    @cache
    def greedy(adapter: str | None) -> list[int]:
        model: Any = load_model(family.base)
        if adapter is not None:
            model = load_adapted_model(family.base, family.adapters[adapter])
        ids = torch.tensor([PROMPT])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
        )
        return [int(token) for token in output[0, len(PROMPT) :]]

    return greedy


def ask(model: str, **more: object) -> dict[str, object]:
    return {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "temperature": 0,
        "return_token_ids": True,
        "ignore_eos": True,
        **more,
    }


def test_base_and_adapters_answer_as_transformers_and_peft_do(
    gateway: Gateway, alone: Callable[[str | None], list[int]]
) -> None:
    models = {"tiny/base": None, "tiny/a@v1": "adapter0", "tiny/a@v2": "adapter1", "tiny/a@v3": "adapter2"}
    with gateway.client() as client:
        said = {model: client.post("/v1/completions", json=ask(model), timeout=120).json() for model in models}
    assert {model: told["choices"][0]["token_ids"] for model, told in said.items()} == {
        model: alone(adapter) for model, adapter in models.items()
    }
    assert [told["model"] for told in said.values()] == list(models)
    assert len({tuple(alone(adapter)) for adapter in models.values()}) > 1


def test_a_stream_ends_as_openais_clients_expect(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=ask("tiny/a@v1", stream=True), timeout=120)
        chat = {"model": "tiny/a@v1", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 2, "stream": True}
        talked = client.post("/v1/chat/completions", json=chat, timeout=120)
    for told in (answer, talked):
        assert told.text.endswith("data: [DONE]\n\n")
        assert '"model":"tiny/a@v1"' in told.text
        assert gateway.engine_name("tiny/a@v1") not in told.text
        assert told.headers["X-Graftwork-Version"] == gateway.digest("tiny/a@v1")


def test_vllm_says_why_it_cannot_serve_an_adapter(gateway: Gateway, port: int) -> None:
    name = gateway.engine_name("tiny/wide")
    direct = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=ask(name), timeout=60)
    assert direct.status_code == 400
    assert "its rank is 32, and the engine takes ranks up to 16" in direct.json()["error"]["message"]


@pytest.mark.usefixtures("gateway")
def test_vllm_knows_no_digest_that_the_registry_does_not_know(port: int) -> None:
    unknown = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=ask(f"tiny/a@{'0' * 64}"), timeout=60)
    alias = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=ask("tiny/a@v1"), timeout=60)
    assert (unknown.status_code, alias.status_code) == (404, 404)


def test_flips_under_load_are_each_answered_by_exactly_one_version(
    gateway: Gateway, alone: Callable[[str | None], list[int]]
) -> None:
    path = "/api/v1/artifacts/tiny/a/aliases/live"
    own = {gateway.digest(f"tiny/a@v{number + 1}"): alone(f"adapter{number}") for number in range(3)}
    with gateway.client() as client:
        client.put(path, json={"version": "v1"}, timeout=120).raise_for_status()
        with gateway.load("tiny/a@live", asked=ask("tiny/a@live")) as load:
            for flip in range(9):
                client.put(path, json={"version": f"v{(flip + 1) % 3 + 1}"}, timeout=120).raise_for_status()
                time.sleep(0.3)
    assert {status for status, _, _ in load.answers} == {200}
    wrong = [version for _, version, body in load.answers if load.tokens(body) != own[version]]
    assert wrong == []
    assert {version for _, version, _ in load.answers} == set(own)


def test_a_client_that_goes_away_stops_the_real_server(gateway: Gateway, port: int) -> None:
    before = metric(port, "vllm:generation_tokens_total")
    asked = ask("tiny/a@v1", stream=True, max_tokens=120)
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=asked) as told:
        next(told.iter_raw())
    until(lambda: not metric(port, "vllm:num_requests_running") and not gateway.in_flight())
    assert metric(port, "vllm:generation_tokens_total") - before < 100


def metric(port: int, name: str) -> float:
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))
