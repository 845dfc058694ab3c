"""Datasets through the importer's gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.errors import GraftworkError, InvalidDataset, InvalidRequest, TooLarge
from graftwork.registry.formats import dataset
from graftwork.registry.formats.dataset import read_dataset, read_examples
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.snapshots import materialise
from graftwork.registry.versions.version import Kind

CHOICE = {"prompt": "2+2=", "options": ["3", "4"], "answer": "4"}


def lines(folder: Path, *rows: Any, config: dict[str, Any] | None = None) -> Path:
    folder = folder / "dataset"
    folder.mkdir(exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "data.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    if config is not None:
        (folder / "dataset.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("row", "task"),
    [
        ({"prompt": "x", "answer": ["y", "z"]}, "generation"),
        (CHOICE, "multiple_choice"),
        ({"text": "x", "source": "web"}, "text"),
        ({"text": "x", "label": 3}, "classification"),
    ],
)
def test_a_file_tells_its_task_by_its_fields(
    local_registry: Registry, tmp_path: Path, row: dict[str, Any], task: str
) -> None:
    file = lines(tmp_path, row, row) / "data.jsonl"
    version = import_source(local_registry, str(file), Name.parse("acme/data"))
    assert (version.kind, version.base) == (Kind.DATASET, None)
    layout = read_dataset(materialise(local_registry, version))
    assert (layout.config.task, layout.examples) == (task, 2)
    assert len(read_examples(layout, 1)) == 1


def test_a_configuration_names_task_and_fields(local_registry: Registry, tmp_path: Path) -> None:
    config = {"task": "multiple_choice", "fields": {"prompt": "question", "answer": "right"}}
    row = {"question": "2+2=", "options": ["3", "4"], "right": "4"}
    version = import_source(local_registry, str(lines(tmp_path, row, config=config)), Name.parse("acme/data"))
    assert [file.path for file in version.files] == ["data.jsonl", "dataset.json"]
    assert read_examples(read_dataset(materialise(local_registry, version))) == [
        {"prompt": "2+2=", "options": ["3", "4"], "answer": 1}
    ]


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        (["{"], None, "line 1 is not JSON"),
        ([{"text": "x"}, "[1]"], None, "line 2 is not a JSON object"),
        ([{"text": "x"}, ""], None, "line 2 is not JSON"),
        (['{"text": "\udce9"}'], None, "line 1 is not UTF-8"),
        (['{"text": NaN}'], None, "NaN is no number"),
        (["[" * 100_000], None, "line 1 is not JSON"),
        ([], None, "it is empty"),
        (
            [{"words": "x"}],
            None,
            "its first line has words; without a dataset.json it must have prompt, options, answer",
        ),
        ([{"text": "x"}, {"text": 3}], None, "line 2: 'text' must be a text"),
        ([{**CHOICE, "answer": "5"}], None, "line 1: its answer '5' is none of its options"),
        ([{**CHOICE, "answer": 2}], None, "line 1: its answer 2 is none"),
        ([{**CHOICE, "options": ["4"]}], None, "'options' must be a list of 2 to 100 texts"),
        ([{"text": "x"}], {"task": "poetry"}, "task: expected"),
        ([{"text": "x"}], {"task": "text", "fields": {"prompt": "text"}}, "the task text has no 'prompt'; it has text"),
        ([{"text": "x"}], {"task": "classification"}, "line 1: 'label' must be the name or the number"),
    ],
)
def test_what_is_not_in_order_is_refused_with_its_line(
    local_registry: Registry, tmp_path: Path, rows: list[Any], config: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(InvalidDataset, match=message):
        import_source(
            local_registry, str(lines(tmp_path, *rows, config=config)), Name.parse("acme/d"), kind=Kind.DATASET
        )
    assert local_registry.catalog.list() == []


def test_a_dataset_is_one_file_within_limits_and_on_no_base(
    local_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lines(tmp_path, {"text": "x"}, {"text": "x" * 100})

    def take(error: type[GraftworkError], message: str, **more: Any) -> None:
        with pytest.raises(error, match=message):
            import_source(local_registry, str(folder), Name.parse("acme/data"), kind=Kind.DATASET, **more)

    take(InvalidRequest, "belongs on no base", base=Ref.parse("acme/base"))
    for limit, value, message in (
        ("MAX_LINE_BYTES", 50, "line 2 of data.jsonl"),
        ("MAX_EXAMPLES", 1, "data.jsonl"),
        ("MAX_BYTES", 10, "data.jsonl"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(dataset, limit, value)
            take(TooLarge, message)
    (folder / "other.jsonl").write_text("{}")
    take(InvalidDataset, "it has 2 .jsonl files; expected one")
