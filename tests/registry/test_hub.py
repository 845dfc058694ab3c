from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest

from graftwork.errors import InvalidReference
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.hub import download
from graftwork.settings import Settings

COMMIT = "c0ffee" + "0" * 34


class HubHandler(BaseHTTPRequestHandler):
    """The read side of the Hub's protocol, for one repository with one commit."""

    protocol_version = "HTTP/1.1"
    repository = "org/tiny"
    endpoint: str
    files: Mapping[str, bytes]
    requested: set[str]

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def respond(self) -> None:
        path = unquote(self.path.partition("?")[0]).strip("/")
        api = f"api/models/{self.repository}"
        if path == api or path.startswith((f"{api}/", f"{self.repository}/resolve/")):
            rest = path.removeprefix(api).strip("/") if path.startswith(api) else path.split("/", 3)[3]
            self.answer_api(rest) if path.startswith(api) else self.answer_file(*rest.split("/", 1))
        else:
            self.refuse("RepoNotFound")

    def answer_api(self, rest: str) -> None:
        operation, _, revision = rest.partition("/")
        if operation and revision.split("/")[0] not in ("main", "v1", COMMIT):
            self.refuse("RevisionNotFound")
        elif operation == "tree":
            self.send_json([{"type": "file", "path": name, **self.entry(name)} for name in self.files])
        else:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            self.send_json({"id": self.repository, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def entry(self, name: str) -> dict[str, object]:
        return {"size": len(self.files[name]), "oid": hashlib.sha1(self.files[name]).hexdigest()}

    def answer_file(self, revision: str, name: str) -> None:
        if name not in self.files:
            self.refuse("EntryNotFound")
            return
        self.requested.add(name)
        self.send(200, self.files[name], {"ETag": f'"{self.entry(name)["oid"]}"', "X-Repo-Commit": COMMIT})

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, code: str) -> None:
        self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def hub(family: dict[str, Path]) -> Iterator[type[HubHandler]]:
    """A server of the sharded tiny model, with a pickle and a script that nobody should fetch."""
    files = {path.name: path.read_bytes() for path in family["sharded"].iterdir()}
    extra = {"pytorch_model.bin": b"pickle", "modeling_x.py": b"code", ".gitattributes": b"", "README.md": b"# Tiny"}

    class Handler(HubHandler):
        pass

    Handler.files, Handler.requested = files | extra, set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        Handler.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield Handler
        server.shutdown()
        thread.join()


IMPORT = """
import sys
from pathlib import Path
from graftwork.errors import GraftworkError
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.settings import Settings

with Registry.open(Settings(home=Path(sys.argv[1]))) as registry:
    for source in sys.argv[2:]:
        try:
            print(import_source(registry, source, Name("acme", "tiny")).ref)
        except GraftworkError as error:
            print(error.code, error)
"""


def run_import(endpoint: str, home: Path, *sources: str) -> list[str]:
    """One line a source. In a process of its own: huggingface_hub reads its environment when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", IMPORT, str(home), *sources]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_repository_is_imported_at_its_commit(hub: type[HubHandler], tmp_path: Path) -> None:
    home = tmp_path / "home"
    lines = run_import(hub.endpoint, home, "hf:org/tiny", "hf:org/tiny@v1", f"hf:org/tiny@{COMMIT}")
    assert lines == ["acme/tiny@v1"] * 3
    taken = set(hub.files) - {"pytorch_model.bin", "modeling_x.py", ".gitattributes"}
    with Registry.open(Settings(home=home)) as registry:
        version = registry.catalog.resolve("acme/tiny")
        assert version.metadata == {"source": "hf:org/tiny", "commit": COMMIT}
        assert {file.path for file in version.files} == taken
        for file in version.files:
            assert registry.blobs.path(file.sha256).read_bytes() == hub.files[file.path]
    assert hub.requested == taken
    assert [path for path in (home / "hub").iterdir() if path.is_dir()] == []


def test_what_the_hub_does_not_have_is_not_found(hub: type[HubHandler], tmp_path: Path) -> None:
    lines = run_import(hub.endpoint, tmp_path / "home", "hf:org/none", "hf:org/tiny@v9", "hf:org/tiny@refs/pr/1")
    assert [line.split()[0] for line in lines] == ["source_not_found"] * 3
    assert "'hf:org/none'" in lines[0]


def test_a_repository_with_code_in_its_configuration_leaves_no_trace(hub: type[HubHandler], tmp_path: Path) -> None:
    home = tmp_path / "home"
    hub.files = dict(hub.files) | {"config.json": b'{"auto_map": {"AutoModel": "modeling_x.X"}}'}
    (line,) = run_import(hub.endpoint, home, "hf:org/tiny")
    assert line.startswith("unsafe_file config.json")
    with Registry.open(Settings(home=home)) as registry:
        assert registry.catalog.list() == []
    left = [path for folder in ("blobs", "hub") for path in (home / folder).rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".lock"]


def test_what_is_wrong_is_told_of_the_repository_and_not_of_the_folder_that_it_was_fetched_to(
    hub: type[HubHandler], tmp_path: Path
) -> None:
    hub.files = {"config.json": b"{}"}
    (line,) = run_import(hub.endpoint, tmp_path / "home", "hf:org/tiny")
    assert line.startswith("invalid_checkpoint hf:org/tiny ")
    assert str(tmp_path) not in line


def test_a_hub_that_cannot_be_reached_is_said_so(tmp_path: Path) -> None:
    (line,) = run_import("http://127.0.0.1:1", tmp_path / "home", "hf:org/tiny")
    assert line.startswith("hub_unavailable hf:org/tiny could not be fetched from the Hub: ")


@pytest.mark.parametrize("source", ["hf:", "hf:tiny", "hf:org/tiny@", "hf:a/b/c", "hf:org/ti ny", "hf:../tiny"])
def test_a_malformed_source_is_refused(source: str) -> None:
    with pytest.raises(InvalidReference, match="hf:ORG/NAME"):
        download(source)
