"""A server that asks for tokens: who may see, change and run what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import openai
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.registry.access.grants import Grants
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings
from graftwork.testing.family import Family


@dataclass(frozen=True)
class Guarded:
    """A server with authentication: `open/base` for all, `acme/secret` private."""

    url: str
    registry: Registry
    clients: ExitStack

    def client(self, secret: str | None = None) -> httpx.Client:
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return self.clients.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=60))

    def token(self, *, seconds: float | None = None, **grants: list[str]) -> str:
        given = Grants.parse({namespace.replace("everywhere", "*"): scopes for namespace, scopes in grants.items()})
        return self.registry.tokens.create("ada", given, seconds=seconds)[0]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Iterator[Guarded]:
    settings = Settings(home=tmp_path_factory.mktemp("guarded"), threads=1, auth="required")
    with Registry.open(settings) as registry, running(create_app(settings)) as url:
        import_source(registry, str(family.base), Name.parse("open/base"))
        for name in ("acme/secret", "open/adapter"):
            import_source(registry, str(family.adapters["adapter0"]), Name.parse(name), base=Ref.parse("open/base"))
        registry.repositories.set_private(Name.parse("acme/secret"), True)
        with ExitStack() as clients:
            yield Guarded(url, registry, clients)


def test_without_a_good_token_nothing_is_answered_but_health(guarded: Guarded) -> None:
    assert guarded.client().get("/healthz").status_code == 200
    for path in ("/api/v1/artifacts", "/v1/models", "/api/v1/jobs"):
        refused = guarded.client().get(path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert "none was given" in refused.text
    assert guarded.client("gw_wrong").get("/v1/models").json()["error"]["code"] == "unauthorized"
    expired = guarded.token(seconds=-1.0, open=["read"])
    assert "is not known, or expired or revoked" in guarded.client(expired).get("/api/v1/artifacts").text
    secret = guarded.token(open=["read"])
    assert guarded.client(secret).get("/api/v1/artifacts").status_code == 200
    guarded.registry.tokens.revoke(guarded.registry.tokens.list()[0].id)
    assert guarded.client(secret).get("/api/v1/artifacts").status_code == 401


def test_a_private_artifact_is_not_there_for_others(guarded: Guarded) -> None:
    other, mine = guarded.client(guarded.token(open=["write"])), guarded.client(guarded.token(acme=["read"]))
    private = "/api/v1/artifacts/acme/secret"
    for path in (private, f"{private}/versions", f"{private}/versions/v1", f"{private}/lineage", f"{private}/aliases"):
        assert (other.get(path).status_code, mine.get(path).status_code) == (404, 200), path
    absent = other.get("/api/v1/artifacts/acme/nothing").text
    assert other.get(private).text == absent.replace("nothing", "secret")
    names = [artifact["name"] for artifact in other.get("/api/v1/artifacts").json()]
    assert names == ["open/adapter", "open/base"]
    assert len(mine.get("/api/v1/artifacts").json()) == 3


def test_writing_needs_a_grant_in_the_namespace(guarded: Guarded) -> None:
    reader, writer = guarded.client(guarded.token(open=["read"])), guarded.client(guarded.token(open=["write"]))
    digest = writer.get("/api/v1/artifacts/open/adapter/versions/v1").json()["digest"]
    path, body = "/api/v1/artifacts/open/adapter/aliases/prod", {"digest": digest}
    refused = reader.put(path, json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert refused.json()["detail"] == (
        "ada may not do this: it takes a token with the scope write in open (--grant open=write)."
    )
    assert writer.put(path, json=body).status_code in (200, 201)
    history = writer.get(f"{path}/history").json()
    assert history[-1]["actor"] == "ada"


@pytest.mark.parametrize("everywhere", [["admin"], ["write"], ["read"]])
def test_only_an_administrator_manages_tokens(guarded: Guarded, everywhere: list[str]) -> None:
    client = guarded.client(guarded.token(everywhere=everywhere))
    made = client.post("/api/v1/tokens", json={"owner": "eve", "grants": {"eve": ["write"]}})
    assert made.status_code == (201 if everywhere == ["admin"] else 403)
    if made.status_code == 201:
        assert guarded.client(made.json()["secret"]).get("/v1/models").status_code == 200
        listed = client.get("/api/v1/tokens").json()
        assert made.json()["secret"] not in str(listed)
        assert client.delete(f"/api/v1/tokens/{made.json()['id']}").status_code == 200
        assert guarded.client(made.json()["secret"]).get("/v1/models").status_code == 401


def test_inference_needs_its_scope_where_the_model_is(guarded: Guarded) -> None:
    def ask(model: str, secret: str) -> int:
        with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=secret, max_retries=0) as client:
            try:
                client.completions.create(model=model, prompt="ab", max_tokens=1)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

    infer = guarded.token(open=["infer"])
    assert ask("open/base", infer) == 200
    assert ask("open/adapter", infer) == 200
    assert ask("acme/secret", infer) == 404
    assert ask("open/base", guarded.token(acme=["infer"])) == 403
    assert ask("acme/secret", guarded.token(acme=["infer", "read"])) == 200


def test_who_may_write_hides_and_shows_and_to_others_it_is_not_there(guarded: Guarded) -> None:
    path = "/api/v1/artifacts/acme/secret"
    writer, reader = guarded.client(guarded.token(acme=["write"])), guarded.client(guarded.token(open=["read"]))
    assert reader.patch(path, json={"private": False}).status_code == 404
    assert writer.patch(path, json={"private": False}).json()["private"] is False
    assert reader.patch(path, json={"private": True}).status_code == 403
    assert writer.patch(path, json={"private": True}).json()["private"] is True
    assert reader.get(path).status_code == 404


def test_a_browser_is_led_to_the_documentation(guarded: Guarded) -> None:
    answer = guarded.client().get("/", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/docs")
