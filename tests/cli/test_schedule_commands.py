"""`graft schedules` and `graft evaluate`, and the page that explains them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from graftwork.testing.family import Family

if TYPE_CHECKING:
    from tests.cli.conftest import Graft

PAGE = Path(__file__).parent.parent.parent / "docs" / "schedules.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


def test_every_command_of_the_page_works(
    graft: Graft, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, content in FILE.findall(text):
        (folder / name).write_text(content)
    for name, source in (("base", family.base), *zip(("support", "billing"), family.adapters.values(), strict=True)):
        (folder / name).symlink_to(source, target_is_directory=True)
    commands = [line[2:] for block in COMMANDS.findall(text) for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 10
    for command in commands:
        told = graft(*shlex.split(command)[1:])
        assert told.code == 0, f"{command}: {told.stderr}"
    (job,) = graft("schedules", "show", "acme/nightly", "--json").json["jobs"]
    assert [one["model"] for one in job["payload"]["recipe"]["models"]] == ["acme/billing@v1", "acme/support@v1"]
    assert job["payload"]["gate"]["dataset"] == "acme/questions@v1"
    shown = graft("show", "acme/support@prod", "--json").json["evaluations"]
    assert [one["metric"] for one in shown] == ["perplexity"]
    assert "perplexity" in graft("show", "acme/support@prod").stdout


def test_schedules_are_made_paused_resumed_run_and_removed(graft: Graft, tmp_path: Path) -> None:
    file = tmp_path / "hourly.yaml"
    payload = {"source": "hf:acme/llama", "name": "acme/llama"}
    given = {"name": "acme/hourly", "cron": "0 * * * *", "kind": "import", "payload": payload}
    assert "There are no schedules." in graft("schedules", "ls").stderr
    file.write_text(json.dumps(given))
    assert graft("schedules", "create", file, "--json").json["payload"] == payload
    assert "0 * * * *" in graft("schedules", "ls").stdout
    assert graft("schedules", "create", file).code == 4
    assert "paused" in graft("schedules", "pause", "acme/hourly").stderr
    job = graft("schedules", "run", "acme/hourly", "--json").json
    file.write_text(json.dumps({**given, "cron": "5 * * * *"}))
    assert graft("schedules", "update", file, "--json").json["cron"] == "5 * * * *"
    assert graft("schedules", "show", "acme/hourly", "--json").json["jobs"][0]["id"] == job["id"]
    assert job["id"][:12] in graft("schedules", "show", "acme/hourly").stdout
    assert "next: 2" in graft("schedules", "resume", "acme/hourly").stderr
    assert graft("schedules", "rm", "acme/hourly").code == 0
    assert graft("schedules", "show", "acme/hourly").code == 3
    for change, told in (
        ({"cron": "now"}, "cron: 'now' is not understood"),
        ({"overlap": "maybe"}, "overlap: expected 'skip', 'queue' or 'cancel'"),
        ({"when": 1}, "when: there is no such key; there is catch_up, cron"),
        ({"priority": "high"}, "priority: expected a valid integer"),
        ({"payload": 3}, "payload: expected an object of keys and values"),
        ({"name": 3}, "expected a mapping with name, cron, kind and payload"),
    ):
        file.write_text(json.dumps({**given, **change}))
        refused = graft("schedules", "create", file)
        assert (refused.code, told in refused.stderr) == (2, True), refused.stderr


def test_evaluate_says_what_it_was_given_wrong(graft: Graft) -> None:
    assert "give --dataset or --evaluator" in graft("evaluate", "tiny/a").stderr
    assert "the operator has configured no 'x'" in graft("evaluate", "tiny/a", "--evaluator", "x").stderr
    assert graft("evaluate", "tiny/a", "--dataset", "tiny/none").code == 3
