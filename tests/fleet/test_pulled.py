"""The plugin's half that needs no vLLM: pulling adapters by digest, and the route that they come from."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from graftwork.adapters.fleet.names import EngineName
from graftwork.errors import CorruptBlob, InvalidAdapter, OperationFailed, UnservableAdapter
from graftwork.registry.versions.manifest import FileEntry
from graftwork.settings import Settings
from graftwork.vllm_plugin.entry import max_rank
from graftwork.vllm_plugin.pulled import Pulled, check_servable
from graftwork.vllm_plugin.source import HomeSource, Listing, ServerSource, Source

if TYPE_CHECKING:
    from tests.fleet.conftest import Gateway

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def engine_name(text: str) -> EngineName:
    name = EngineName.parse(text)
    assert name is not None
    return name


@pytest.fixture(params=["server", "home"])
def source(request: pytest.FixtureRequest, gateway: Gateway, home: Path) -> Source:
    return ServerSource(gateway.url) if request.param == "server" else HomeSource(Settings(home=home))


@pytest.mark.parametrize("digits", [12, 64])
def test_an_adapter_is_pulled_whole_and_once(source: Source, gateway: Gateway, tmp_path: Path, digits: int) -> None:
    digest = gateway.digest("tiny/a@v2")
    asked = Counting(source)
    pulled = Pulled(tmp_path, asked)
    folders: list[Path | None] = []
    name = engine_name(f"tiny/a@{digest[:digits]}")
    threads = [threading.Thread(target=lambda: folders.append(pulled.pull(name))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [tmp_path / digest] * 6
    files = gateway.registry.catalog.by_digest(digest).files
    assert sorted(asked.copied) == sorted(file.path for file in files)
    for file in files:
        assert hashlib.sha256((tmp_path / digest / file.path).read_bytes()).hexdigest() == file.sha256
    assert {path.name for path in tmp_path.iterdir()} == {digest, f".{digest}.lock"}


def test_what_is_on_the_disk_needs_no_source(gateway: Gateway, tmp_path: Path) -> None:
    name = engine_name(gateway.engine_name("tiny/a@v1"))
    first = Pulled(tmp_path, ServerSource(gateway.url)).pull(name)
    assert Pulled(tmp_path, ServerSource("http://127.0.0.1:1")).pull(name) == first
    other = engine_name(gateway.engine_name("tiny/a@v2"))
    with pytest.raises(OperationFailed, match=r"Pulling tiny/a@.* failed"):
        Pulled(tmp_path, ServerSource("http://127.0.0.1:1")).pull(other)


def test_an_unknown_digest_is_none_and_a_base_is_no_adapter(source: Source, gateway: Gateway, tmp_path: Path) -> None:
    pulled = Pulled(tmp_path, source)
    assert pulled.pull(engine_name(f"tiny/a@{'0' * 64}")) is None
    assert pulled.pull(engine_name(f"tiny/nothing@{'0' * 64}")) is None
    with pytest.raises(InvalidAdapter, match="it is a base"):
        pulled.pull(engine_name(gateway.engine_name("tiny/base")))


class Counting:
    """A source that writes down what was copied, and can lie."""

    def __init__(self, source: Source, *, lie: str = "") -> None:
        self._source = source
        self._lie = lie
        self.copied: list[str] = []

    def find(self, name: EngineName) -> Listing | None:
        listing = self._source.find(name)
        if listing is not None and self._lie == "path":
            files = (FileEntry("../out", *((f := listing.files[0]).sha256, f.size)), *listing.files[1:])
            return Listing(listing.digest, listing.kind, listing.base, files)
        return listing

    def copy(self, name: EngineName, file: FileEntry, target: IO[bytes]) -> Iterator[bytes]:
        self.copied.append(file.path)
        for chunk in self._source.copy(name, file, target):
            if self._lie == "short":
                return
            yield chunk if self._lie != "bytes" else chunk[::-1]


@pytest.mark.parametrize(("lie", "error"), [("path", CorruptBlob), ("bytes", CorruptBlob), ("short", OperationFailed)])
def test_a_source_that_lies_leaves_nothing(gateway: Gateway, tmp_path: Path, lie: str, error: type[Exception]) -> None:
    name = engine_name(gateway.engine_name("tiny/a@v1"))
    with pytest.raises(error):
        Pulled(tmp_path, Counting(ServerSource(gateway.url), lie=lie)).pull(name)
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_the_reason_of_a_refusal_names_the_adapter(gateway: Gateway, tmp_path: Path) -> None:
    name = gateway.engine_name("tiny/a@v3")
    folder = Pulled(tmp_path, ServerSource(gateway.url)).pull(engine_name(name))
    assert folder is not None
    check_servable(name, folder, max_rank=8)
    with pytest.raises(UnservableAdapter, match=rf"{name} cannot be served by vLLM: its rank is 6"):
        check_servable(name, folder, max_rank=4)


@pytest.mark.parametrize(
    "text", ["tiny/a", "tiny/a@live", "tiny/a@v1", "tiny/a@0123", "a@" + "0" * 64, "../a/b@" + "0" * 12]
)
def test_only_names_with_a_digest_are_versions(text: str) -> None:
    assert EngineName.parse(text) is None


def test_the_rank_is_that_of_the_command_line() -> None:
    settings = Settings(max_lora_rank=8)
    assert max_rank(["serve", "--max-lora-rank", "64"], settings) == 64
    assert max_rank(["serve", "--max_lora_rank=32"], settings) == 32
    assert max_rank(["serve"], settings) == 8


def test_a_file_comes_whole_in_ranges_and_not_twice(gateway: Gateway) -> None:
    version = gateway.registry.catalog.resolve("tiny/a@v1")
    file = next(file for file in version.files if file.path == WEIGHTS)
    path = f"/api/v1/artifacts/tiny/a/versions/{version.digest}/files/{WEIGHTS}"
    with gateway.client() as client:
        whole = client.get(path)
        part = client.get(path, headers={"Range": "bytes=8-15"})
        again = client.get(path, headers={"If-None-Match": whole.headers["ETag"]})
        head = client.head(path)
        missing = client.get(path + "x")
    assert hashlib.sha256(whole.content).hexdigest() == file.sha256
    assert whole.headers["ETag"] == f'"{file.sha256}"'
    assert (part.status_code, part.content) == (206, whole.content[8:16])
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.headers["content-length"]) == (200, str(file.size))
    assert (missing.status_code, "adapter_config.json" in missing.json()["detail"]) == (404, True)


def test_the_plugin_brings_nothing_heavy_into_vllm() -> None:
    program = "import graftwork.vllm_plugin.entry, graftwork.vllm_plugin.pulled, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "sqlalchemy", "fastapi", "pydantic", "httpx", "huggingface_hub", "click"}
    assert heavy & set(loaded.stdout.split()) == set()
