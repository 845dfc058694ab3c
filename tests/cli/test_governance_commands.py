"""Quarantine, rebuild, withdrawal, tags and the audit log at the command line."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftwork.testing.family import Family

Graft = Callable[..., Any]


@pytest.fixture
def merged(graft: Graft, tmp_path: Path) -> str:
    """`tiny/merged@v1`, alias `prod`: the two fine-tunes on their base."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "tiny/base",
        "models": [{"model": f"tiny/ft{number}", "parameters": {"weight": 0.5}} for number in (0, 1)],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    told = graft("merge", file, "--name", "tiny/merged", "--alias", "prod", "--json")
    assert told.code == 0, told.stderr
    return "tiny/merged@v1"


def test_a_poisoned_fine_tune_is_left_out_of_what_was_made_of_it(graft: Graft, merged: str) -> None:
    assert graft("quarantine", "tiny/ft0").code == 2
    told = graft("quarantine", "tiny/ft0", "--reason", "poisoned")
    assert "Nothing is served under tiny/merged@prod until moved." in told.stderr
    tree = graft("lineage", "tiny/ft0", "--down").stdout
    assert "quarantined (poisoned)" in tree
    assert "quarantined because of tiny/ft0@v1" in tree
    assert len(graft("marks", "--json").json) == 2
    assert graft("rebuild", "tiny/ft0").code == 2
    plan = graft("rebuild", "tiny/ft0", "--without", "--dry-run", "--json").json
    assert [(step["refs"], step["left_out"]) for step in plan["steps"]] == [([merged], ["tiny/ft0@v1"])]
    assert "merge" in graft("rebuild", "tiny/ft0", "--without", "--dry-run").stdout
    done = graft("rebuild", "tiny/ft0", "--without", "--move-aliases")
    assert "tiny/merged@v2" in done.stdout
    assert "tiny/merged@prod moved" in done.stdout
    for ref in (merged, "tiny/ft0"):
        assert graft("withdraw", ref, "--reason", "poisoned").code == 0
    assert graft("show", "tiny/ft0@v1").code == 3
    assert "withdrawn" in graft("lineage", "tiny/ft0@v1").stdout
    log = graft("audit", "tiny/merged", "--json").json
    assert [entry["action"] for entry in log][:3] == ["version.withdraw", "alias.move", "version.register"]
    assert "rebuilt for tiny/ft0@v1" in graft("audit", "tiny/merged", "--action", "alias").stdout


def test_what_takes_the_place_of_an_input_is_shown(graft: Graft, merged: str) -> None:
    told = graft("rebuild", "tiny/ft0", "--replace-by", "tiny/ft1", "--dry-run")
    assert "tiny/ft0@v1 -> tiny/ft1@v1" in told.stdout


def test_the_audit_log_says_who_merged_imported_and_scheduled(graft: Graft, merged: str, family: Any) -> None:
    assert graft("import", family.fine_tunes["ft0"], "--name", "who/ft0", "--base", "tiny/base").code == 0
    assert graft("extract", "who/ft0", "--base", "tiny/base", "--name", "who/delta", "--alias", "x").code == 0
    entries = [*graft("audit", "tiny/merged", "--json").json, *graft("audit", "who", "--json").json]
    assert len(entries) == 5
    assert {entry["actor"] for entry in entries} == {getpass.getuser()}


def test_a_quarantine_is_lifted(graft: Graft) -> None:
    assert graft("lift", "tiny/base").code == 2
    graft("quarantine", "tiny/base", "--reason", "licence")
    assert "5 versions may be used again" in graft("lift", "tiny/base").stderr
    assert "Nothing is marked." in graft("marks").stderr


def test_tags_are_added_found_and_removed(graft: Graft) -> None:
    assert graft("tags", "add", "tiny/a", "nightly", "german", "--json").json["tags"] == ["german", "nightly"]
    assert graft("tags", "find", "nightly", "--json").json == ["tiny/a"]
    assert graft("tags", "rm", "tiny/a", "german").code == 0
    assert graft("tags", "ls", "tiny/a", "--json").json["tags"] == ["nightly"]
    assert graft("tags", "ls", "--json").json == {"nightly": 1}
    assert graft("tags", "add", "tiny/a", "no spaces").code == 2


def test_a_quarantine_is_seen_wherever_its_version_is(graft: Graft, tmp_path: Path) -> None:
    graft("quarantine", "tiny/ft0", "--reason", "licence")
    assert graft("export", "tiny/ft0", tmp_path / "copy").code == 0
    assert graft("import", tmp_path / "copy", "--name", "tiny/copy", "--base", "tiny/base").code == 0
    assert "licence, because of tiny/ft0@v1" in graft("show", "tiny/copy").stdout
    [mark] = graft("show", "tiny/ft0", "--json").json["marks"]
    assert (mark["mark"], mark["reason"]) == ("quarantined", "licence")
    marked = {found["name"] for found in graft("ls", "--json").json if found["quarantined"]}
    assert marked == {"tiny/ft0", "tiny/copy"}
    assert graft("ls").stdout.count("quarantined") == 2
    told = graft("export", "tiny/ft0", tmp_path / "out")
    assert (told.code, "warning: tiny/ft0@v1 is quarantined: licence" in told.stderr) == (0, True)


def test_an_artifact_is_private_from_its_import_on(graft: Graft, family: Family) -> None:
    adapter = family.adapters["adapter0"]
    assert graft("import", adapter, "--name", "tiny/own", "--base", "tiny/base", "--private").code == 0
    assert [found["name"] for found in graft("ls", "--json").json if found["private"]] == ["tiny/own"]
    assert "private" in graft("show", "tiny/own").stdout
    assert graft("public", "tiny/own", "--json").json["private"] is False
    assert "is private now" in graft("private", "tiny/own").stderr
    assert graft("private", "tiny/nobody").code == 3
