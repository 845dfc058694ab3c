"""The server against its OpenAPI document: schemathesis asks every operation, with good requests and broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.openapi import METHODS
from graftwork.settings import Settings
from graftwork.testing.contract import ENDLESS, Answers, check, served

EXAMPLES = 4


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    with served(tmp_path_factory.mktemp("contract")) as url:
        return check(url, examples=EXAMPLES, seed=0)


def test_every_operation_is_asked(answers: Answers) -> None:
    paths = create_app(Settings(home=Path("unused"))).openapi()["paths"]
    there = {f"{method.upper()} {path}" for path, item in paths.items() for method in METHODS if method in item}
    assert answers.asked.keys() == {label for label in there if not ENDLESS.search(label)}


def test_answers_are_what_the_document_says(answers: Answers) -> None:
    assert answers.wrong == {}
    assert max(answers.statuses) < 500
    assert {200, 201, 404, 422} <= answers.statuses.keys()
