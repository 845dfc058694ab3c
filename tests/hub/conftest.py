"""A real server that speaks the Hub's protocol, and clients of it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.api.hub import lfs
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family
from graftwork.testing.tiny import tiny_family

INLINE, PART = 20_000, 30_000
"""Small enough that a tiny model's weights go by Git LFS, in parts."""


@dataclass(frozen=True)
class Hub:
    """A running server, and a second door to its registry, which holds `tiny/base`."""

    url: str
    registry: Registry
    family: Family
    clients: ExitStack

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.url, token="gw_any")

    def client(self, secret: str | None = None) -> httpx.Client:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return self.clients.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=60))

    def file(self, path: str, content: bytes) -> dict[str, Any]:
        """The line of a commit that adds a small file."""
        value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
        return {"key": "file", "value": value}

    def commit(
        self, name: str, *lines: dict[str, Any], parent: str | None = None, secret: str | None = None
    ) -> httpx.Response:
        """Send a commit."""
        header = {"summary": "a commit"} | ({} if parent is None else {"parentCommit": parent})
        body = b"".join(json.dumps(line).encode() + b"\n" for line in ({"key": "header", "value": header}, *lines))
        return self.client(secret).post(f"/api/models/{name}/commit/main", content=body)

    def upload(self, name: str, content: bytes, secret: str | None = None) -> str:
        """Send a file by Git LFS. Returns its SHA-256."""
        oid = hashlib.sha256(content).hexdigest()
        wanted = {"operation": "upload", "objects": [{"oid": oid, "size": len(content)}]}
        answer = self.client(secret).post(f"/{name}.git/info/lfs/objects/batch", json=wanted)
        (entry,) = answer.raise_for_status().json()["objects"]
        if "actions" not in entry:
            return oid
        action, anybody = entry["actions"]["upload"], self.client()
        if "header" not in action:
            anybody.put(action["href"], content=content).raise_for_status()
            return oid
        size = int(action["header"].pop("chunk_size"))
        for number, href in action["header"].items():
            begin = (int(number) - 1) * size
            anybody.put(href, content=content[begin : begin + size]).raise_for_status()
        anybody.post(action["href"], json={"oid": oid, "parts": []}).raise_for_status()
        return oid

    def large(self, path: str, oid: str, size: int = 1) -> dict[str, Any]:
        """The line of a commit that adds a file which was sent before."""
        return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid, "size": size}}

    def token(self, owner: str, **grants: list[str]) -> str:
        return self.registry.tokens.create(owner, Grants.parse(grants))[0]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("family"), fine_tunes=1, adapters=1)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[Callable[..., Hub]]:
    """Starts servers."""
    with ExitStack() as stack:
        stack.callback(setattr, lfs, "PART_BYTES", lfs.PART_BYTES)
        lfs.PART_BYTES = PART

        def start(**options: Any) -> Hub:
            settings = Settings(home=tmp_path_factory.mktemp("home"), threads=1, hub_inline_bytes=INLINE, **options)
            registry = stack.enter_context(Registry.open(settings))
            import_source(registry, str(family.base), Name.parse("tiny/base"))
            url = stack.enter_context(running(create_app(settings)))
            return Hub(url, registry, family, stack)

        yield start


@pytest.fixture(scope="session")
def hub(serve: Callable[..., Hub]) -> Hub:
    """A server that asks nobody who they are."""
    return serve()


@pytest.fixture(scope="session")
def guarded(serve: Callable[..., Hub]) -> Hub:
    """A server that asks for tokens."""
    return serve(auth="required")


@pytest.fixture
def client(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, timeout=60) as opened:
        yield opened


@pytest.fixture
def new_repository(hub: Hub, request: pytest.FixtureRequest) -> str:
    """The name of an empty repository of the test's own."""
    name = f"acme/{request.node.name.replace('[', '-').replace(']', '')[:80]}"
    hub.api.create_repo(name)
    return name


@pytest.fixture
def adapter(family: Family, tmp_path: Path) -> Path:
    """An adapter's folder that says that its base is `tiny/base`."""
    source = next(iter(family.adapters.values()))
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "tiny/base"}))
    return folder
