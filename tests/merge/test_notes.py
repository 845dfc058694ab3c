"""What is told of a merge that goes on all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from graftwork.merge.plan.plan import plan
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.settings import Settings

IDLE = "The filter 'self_atn' meets no tensor: none of their names contains it."


@pytest.fixture
def told(bench: Any, caplog: pytest.LogCaptureFixture) -> Any:
    """Plans a merge of models with these configurations, and gives the notes."""

    def notes(weight: object, config: dict[str, Any] | None) -> list[str]:
        paths, _ = bench.family(1)
        if config is None:
            Path(paths[0], "config.json").unlink()
        else:
            Path(paths[0], "config.json").write_text(json.dumps(config))
        recipe = bench.recipe("linear", paths, base=False, per_model=[{"weight": weight}, {}])
        plan(recipe, settings=Settings()).close()
        return [record.message for record in caplog.records]

    return notes


def test_a_filter_that_meets_no_tensor_is_told(told: Any) -> None:
    choices = [{"filter": "mlp", "value": [0, 1]}, {"filter": "self_atn", "value": 1}, {"filter": "*", "value": 0.5}]
    assert told(choices, {}) == [IDLE]


def test_a_result_without_configuration_is_told(told: Any) -> None:
    (note,) = told(1, None)
    assert note.startswith("The result has no config.json, for ")


@pytest.mark.parametrize(
    ("auto_map", "count"),
    [({"AutoModel": "modeling_own.Model"}, 1), ({"AutoModel": "org/name--modeling_own.Model"}, 0)],
)
def test_code_that_does_not_come_along_is_told(told: Any, auto_map: dict[str, str], count: int) -> None:
    notes = told(1, {"auto_map": auto_map})
    assert [" names modeling_own.py: " in note for note in notes] == [True] * count


def test_what_several_documents_have_in_common_is_told_once(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    paths, _ = bench.family(2)
    average = {"merge_method": "linear", "parameters": {"weight": [{"filter": "self_atn", "value": 1}, {"value": 1}]}}
    documents = [
        {**average, "name": "first", "models": [{"model": path} for path in paths[:2]]},
        {**average, "name": "second", "models": [{"model": "first"}, {"model": paths[2]}]},
        {"merge_method": "passthrough", "models": [{"model": "second"}]},
    ]
    recipe = load_recipe(yaml.safe_dump_all(documents))
    for _ in range(2):
        caplog.clear()
        plan(recipe, settings=Settings()).close()
        assert [record.message for record in caplog.records] == [IDLE]
    caplog.clear()
    bench.merge(recipe)
    assert [record.message for record in caplog.records] == [IDLE]
