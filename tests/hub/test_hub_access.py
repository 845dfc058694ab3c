"""Who sees and changes which repositories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from graftwork.registry.refs import Name, Ref
from graftwork.registry.transfer.importer import import_source

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def code(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.headers.get("x-error-code")


@pytest.fixture(scope="module")
def writer(guarded: Hub) -> str:
    return guarded.token("ada", acme=["write"])


def test_a_token_is_needed(guarded: Hub) -> None:
    for path in ("/api/models/tiny/base", "/tiny/base/resolve/main/config.json", "/api/whoami-v2", "/api/models"):
        nobody, wrong = guarded.client().get(path), guarded.client("gw_wrong").get(path)
        assert nobody.status_code == wrong.status_code == 401
        assert "Authorization: Bearer gw_" in nobody.headers["x-error-message"]
        assert wrong.headers["x-error-message"] == "Invalid credentials in Authorization header"
        assert nobody.headers["www-authenticate"] == "Bearer"


def test_whoami_names_the_owner_and_where_it_may_write(guarded: Hub, writer: str) -> None:
    me = guarded.client(writer).get("/api/whoami-v2").json()
    assert (me["name"], [org["name"] for org in me["orgs"]]) == ("ada", ["acme"])
    assert me["auth"]["accessToken"]["role"] == "write"


def test_a_namespace_needs_a_grant(guarded: Hub, writer: str) -> None:
    client = guarded.client(writer)
    created = client.post("/api/repos/create", json={"name": "x", "organization": "others"})
    assert code(created) == (403, "Forbidden")
    needed = "it takes a token with the scope write in others (--grant others=write)."
    assert created.headers["x-error-message"] == f"ada may not do this: {needed}"
    assert guarded.commit("tiny/base", guarded.file("README.md", b"x"), secret=writer).status_code == 403
    for path in ("/api/models/tiny/base/preupload/main", "/tiny/base.git/info/lfs/objects/batch"):
        assert client.post(path, json={"files": [], "operation": "upload", "objects": []}).status_code == 403
    assert client.post("/api/repos/create", json={"name": "x", "organization": "api"}).status_code in (400, 403)


def test_a_draft_is_there_for_writers_only(guarded: Hub, writer: str) -> None:
    made = guarded.client(writer).post("/api/repos/create", json={"name": "draft", "organization": "acme"})
    assert made.status_code == 200
    commit = guarded.commit("acme/draft", guarded.file("README.md", b"x"), secret=writer).json()["commitOid"]
    reader = guarded.client(guarded.token("bob", acme=["read"]))
    for path in ("/api/models/acme/draft", f"/acme/draft/resolve/{commit}/README.md", "/api/models/acme/draft/refs"):
        assert guarded.client(writer).get(path).status_code == 200
        assert code(reader.get(path)) == (404, "RepoNotFound")


def test_a_private_repository_is_not_there_for_others(guarded: Hub, writer: str, adapter: Path) -> None:
    client = guarded.client(writer)
    made = client.post("/api/repos/create", json={"name": "hidden", "organization": "acme", "private": True})
    assert made.status_code == 200
    lines = [guarded.file(name, (adapter / name).read_bytes()) for name in (CONFIG, WEIGHTS)]
    assert guarded.commit("acme/hidden", *lines, secret=writer).status_code == 200
    others = guarded.client(guarded.token("eve", tiny=["write"]))
    for path in ("/api/models/acme/hidden", "/acme/hidden/resolve/main/README.md", "/acme/hidden/resolve/v1/x"):
        assert code(others.get(path)) == (404, "RepoNotFound")
        absent = others.get(path.replace("hidden", "absent")).json()["error"]
        assert others.get(path).json()["error"] == absent.replace("absent", "hidden")
    assert "acme/hidden" not in {model["id"] for model in others.get("/api/models").json()}
    assert "acme/hidden" in {model["id"] for model in client.get("/api/models").json()}
    shown = client.put("/api/models/acme/hidden/settings", json={"visibility": "public"})
    assert shown.status_code == 200
    assert others.get("/api/models/acme/hidden").json()["private"] is False


def test_a_private_base_is_no_base_for_others(guarded: Hub, writer: str, adapter: Path) -> None:
    base = guarded.registry.catalog.resolve("tiny/base").name
    guarded.client(writer).post("/api/repos/create", json={"name": "other", "organization": "acme"})
    guarded.registry.repositories.set_private(base, True)
    try:
        answer = guarded.commit("acme/other", guarded.file(CONFIG, (adapter / CONFIG).read_bytes()), secret=writer)
    finally:
        guarded.registry.repositories.set_private(base, False)
    assert answer.status_code == 400
    assert "'tiny/base', which is not in this registry" in answer.json()["error"]


def test_a_card_names_a_parent_as_whoever_reads_it_may_know_it(guarded: Hub, adapter: Path) -> None:
    registry = guarded.registry
    import_source(registry, str(guarded.family.base), Name.parse("acme/copy"))
    import_source(registry, str(adapter), Name.parse("acme/on-copy"), base=Ref.parse("acme/copy"))
    admin = guarded.client(guarded.token("root", **{"*": ["admin"]}))

    def base() -> str | None:
        answer = admin.get("/api/models/acme/on-copy").json()
        named: str | None = answer["cardData"].get("base_model")
        assert (f"Belongs on `{named}`" in admin.get("/acme/on-copy/resolve/main/README.md").text) is (
            named is not None
        )
        return named

    assert base() == "tiny/base"
    try:
        registry.repositories.set_private(Name.parse("tiny/base"), True)
        assert base() == "acme/copy"
        registry.repositories.set_private(Name.parse("acme/copy"), True)
        assert base() is None
        registry.repositories.set_private(Name.parse("acme/on-copy"), True)
        assert base() == "acme/copy"
    finally:
        registry.repositories.set_private(Name.parse("tiny/base"), False)
