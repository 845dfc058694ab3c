"""The OpenAPI document: complete, consistent in itself, and the one in docs/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.openapi import METHODS, PLAIN, PUBLIC, TAGS, text_of
from graftwork.settings import Settings

KEPT = Path(__file__).parents[2] / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = create_app(Settings(home=Path("unused"))).openapi()


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


OPERATIONS = [pytest.param(*each, id=f"{each[0]} {each[1]}") for each in operations()]


def test_the_document_in_docs_is_this_one() -> None:
    assert KEPT.read_text() == text_of(DOCUMENT), "run `make openapi`"


def test_ids_are_short_and_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(ids) == sorted(set(ids))
    assert max(map(len, ids)) < 40


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_an_operation_is_described(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert set(operation["tags"]) <= set(TAGS)
    if path not in (*PUBLIC, *PLAIN):
        assert {"401", "403", "429", "500"} <= set(operation["responses"])
    media = "application/json" if path.startswith("/v1/") else "application/problem+json"
    for status, response in operation["responses"].items():
        assert response["description"]
        if status >= "400" and path not in PUBLIC:
            assert list(response["content"]) == [media]
            assert response["content"][media]["examples"]


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS)
def test_examples_are_what_the_schemas_say(method: str, path: str, operation: dict[str, Any]) -> None:
    contents = [operation.get("requestBody", {}).get("content", {})]
    contents += [response.get("content", {}) for response in operation["responses"].values()]
    for content in contents:
        for media, described in content.items():
            if media not in ("application/json", "application/problem+json"):
                continue
            examples = described.get("examples", {})
            assert examples or "example" in described
            for example in examples.values():
                if "$ref" in example:
                    example = DOCUMENT["components"]["examples"][example["$ref"].rpartition("/")[2]]
                schema = {**described["schema"], "components": DOCUMENT["components"]}
                jsonschema.validate(example["value"], schema)
