"""Quarantine, rebuild, withdrawal, tags and the audit log at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
    tree = graft("lineage", "tiny/ft0", "--down").stderr
    assert "quarantined (poisoned)" in tree
    assert "quarantined because of tiny/ft0@v1" in tree
    assert len(graft("marks", "--json").json) == 2
    assert graft("rebuild", "tiny/ft0").code == 2
    plan = graft("rebuild", "tiny/ft0", "--without", "--dry-run", "--json").json
    assert [(step["refs"], step["left_out"]) for step in plan["steps"]] == [([merged], ["tiny/ft0@v1"])]
    assert "merge" in graft("rebuild", "tiny/ft0", "--without", "--dry-run").stderr
    done = graft("rebuild", "tiny/ft0", "--without", "--move-aliases")
    assert "tiny/merged@v2" in done.stderr
    assert "tiny/merged@prod moved" in done.stderr
    for ref in (merged, "tiny/ft0"):
        assert graft("withdraw", ref, "--reason", "poisoned").code == 0
    assert graft("show", "tiny/ft0@v1").code == 3
    assert "withdrawn" in graft("lineage", "tiny/ft0@v1").stderr
    log = graft("audit", "tiny/merged", "--json").json
    assert [entry["action"] for entry in log][:3] == ["version.withdraw", "alias.move", "version.register"]
    assert "rebuilt for tiny/ft0@v1" in graft("audit", "tiny/merged", "--action", "alias").stderr


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
