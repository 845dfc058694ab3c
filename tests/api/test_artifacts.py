"""`/api/v1/artifacts`: lists, versions, lineage, and the shape of every failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Server

ROOT = "/api/v1/artifacts"


def test_a_list_is_filtered_and_paged(server: Server, client: httpx.Client) -> None:
    for name in ("lists/one", "lists/two", "lists/three"):
        server.import_adapter(name, "adapter0")

    def names(**filters: str) -> list[str]:
        return [found["name"] for found in client.get(ROOT, params=filters).json()]

    assert names(namespace="lists") == ["lists/one", "lists/three", "lists/two"]
    assert names(search="s/T") == ["lists/three", "lists/two"]
    assert names(kind="checkpoint", namespace="lists") == []
    first = client.get(ROOT, params={"namespace": "lists", "limit": 2})
    rest = client.get(first.links["next"]["url"])
    assert [found["name"] for found in first.json() + rest.json()] == ["lists/one", "lists/three", "lists/two"]
    assert "next" not in rest.links


def test_an_artifact_tells_of_its_newest_version(server: Server, client: httpx.Client) -> None:
    artifact = client.get(f"{ROOT}/tiny/a").json()
    assert (artifact["kind"], artifact["versions"], artifact["ref"]) == ("adapter", 3, "tiny/a@v3")
    assert artifact["digest"] == server.digest("tiny/a@v3")
    assert [version["number"] for version in client.get(f"{ROOT}/TINY/A/versions").json()] == [3, 2, 1]


@pytest.mark.parametrize("spelling", ["v2", "digest", "digest[:10]"])
def test_a_version_is_found_by_number_and_by_digest(server: Server, client: httpx.Client, spelling: str) -> None:
    digest = server.digest("tiny/a@v2")
    revision = {"v2": "v2", "digest": digest, "digest[:10]": digest[:10]}[spelling]
    response = client.get(f"{ROOT}/tiny/a/versions/{revision}")
    assert response.headers["etag"] == f'"{digest}"'
    version = response.json()
    assert version["revision"] == digest[:40]
    assert version["tensors"] == {"count": 28, "parameters": version["tensors"]["parameters"], "dtypes": {"F32": 28}}
    assert {file["path"] for file in version["files"]} >= {"adapter_config.json", "adapter_model.safetensors"}


def test_lineage_goes_up_and_down(server: Server, client: httpx.Client) -> None:
    up = client.get(f"{ROOT}/tiny/a/lineage", params={"revision": "v1", "direction": "up"}).json()
    assert {node["ref"] for node in up["nodes"]} == {"tiny/a@v1", "tiny/base@v1"}
    assert [(edge["child"], edge["parent"]) for edge in up["edges"]] == [
        (server.digest("tiny/a@v1"), server.digest("tiny/base"))
    ]
    down = client.get(f"{ROOT}/tiny/base/lineage", params={"direction": "down", "depth": 1}).json()
    children = {server.digest(ref) for ref in ("tiny/a@v1", "tiny/a@v2", "tiny/a@v3", "tiny/ft0", "tiny/ft1")}
    assert children <= {edge["child"] for edge in down["edges"]} <= {node["digest"] for node in down["nodes"]}
    alone = client.get(f"{ROOT}/tiny/base/lineage", params={"depth": 0}).json()
    assert (len(alone["nodes"]), alone["edges"]) == (1, [])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/tiny/nothing", 404, "artifact_not_found"),
        ("/tiny/a/versions/v9", 404, "revision_not_found"),
        ("/tiny/a/aliases/none", 404, "alias_not_found"),
        ("/tiny/.hidden", 422, "invalid_name"),
        ("/tiny/a/versions/%20", 422, "invalid_reference"),
        ("?limit=0", 422, "invalid_request"),
        ("?kind=elephant", 422, "invalid_request"),
        ("?kindd=base", 422, "invalid_request"),
        ("/tiny/a/aliases?kind=base", 422, "invalid_request"),
        ("/tiny/a/lineage?direction=sideways", 422, "invalid_request"),
        ("/no/such/path/at/all", 404, "not_found"),
    ],
)
def test_a_failure_is_a_problem_document(client: httpx.Client, path: str, status: int, code: str) -> None:
    response = client.get(ROOT + path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["type"] == f"urn:graftwork:problem:{code}"
    assert problem["title"]
    assert problem["detail"].endswith(".")


def test_the_fields_of_an_error_stand_beside_its_sentence(client: httpx.Client) -> None:
    problem = client.get(f"{ROOT}/tiny/a/versions/v9").json()
    assert (problem["name"], problem["revision"]) == ("tiny/a", "v9")
    assert "v3" in problem["known"]


def test_a_method_that_is_not_there_is_a_problem_too(client: httpx.Client) -> None:
    response = client.post(f"{ROOT}/tiny/a")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


def test_the_server_is_healthy_and_describes_itself(client: httpx.Client) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/api/v1/adapters", "/api/v1/merges"} <= set(paths)
