"""docs/experts.md against the code: its document is valid, and it names every field."""

from __future__ import annotations

import json
import re
from pathlib import Path

from graftwork.adapters.experts.mixture import MAX_PARTS, parse_mixture
from graftwork.registry.formats.experts import Entry, Router, parse_document

PAGE = (Path(__file__).parents[2] / "docs" / "experts.md").read_text()


def test_the_document_on_the_page_is_valid() -> None:
    block = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    assert len(parse_document(json.loads(block[1]), "docs/experts.md").experts) == 4


def test_the_routers_on_the_page_are_valid() -> None:
    routers = [json.loads(text) for text in re.findall(r"`(\{\"kind\".*?\})`", PAGE)]
    assert [Router.model_validate(router).kind for router in routers] == [
        "arrow",
        "linear",
        "linear",
        "task-table",
        "linear",
    ]


def test_every_field_and_every_choice_is_on_the_page() -> None:
    for model in (Entry, Router):
        for name, field in model.model_json_schema()["properties"].items():
            assert f"| `{name}` |" in PAGE
            assert [value for value in field.get("enum", ()) if f"`{value}`" not in PAGE] == []


def test_the_mixture_on_the_page_is_one() -> None:
    model = re.search(r'"model": "([^"]*\+[^"]*)"', PAGE)
    assert model is not None
    assert parse_mixture(model[1]) is not None
    assert f"At most {MAX_PARTS} parts" in PAGE
