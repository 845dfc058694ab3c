"""What is wrong is said through a server as in the registry itself: of what was typed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from graftwork.testing.family import Family

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

LOCAL = [
    ("gc",),
    ("verify", "tiny/a"),
    ("adapters", "inspect", "tiny/a"),
    ("extract", "tiny/ft0", "out", "--base", "tiny/base"),
    ("experts", "create", "x/y", "--member", "tiny/a"),
    ("sweep", "sweep.yaml", "--out", "best"),
    ("merge", "recipe.yaml", "out"),
    ("merge", "recipe.yaml", "--plan"),
    ("merge", "recipe.yaml", "--threads", "2"),
]


@pytest.mark.parametrize("arguments", LOCAL, ids=" ".join)
def test_what_does_not_go_through_a_server_says_so(there: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = there(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: \S.* does not go through a server: .* --home\. See 'graft .* --help'\.\n", err)


def test_a_server_that_is_not_there_is_said_to_be_unreachable(there: Run) -> None:
    code, _, err = there("ls", "--server", "http://127.0.0.1:1")
    assert (code, err.startswith("error: The server http://127.0.0.1:1 cannot be reached")) == (1, True)


def test_what_is_wrong_is_told_of_the_option_that_said_it(
    there: Run, here: Run, family: Family, recipe: Path, tmp_path: Path
) -> None:
    adapter, reason = family.adapters["adapter0"], "x" * 2001
    for arguments, told in (
        (("import", adapter, "--name", "wrong/a"), "--base: adapter_config.json says"),
        (("import", adapter, "--name", "wrong/a", "--base", "tiny/base", "--kind", "dataset"), "--kind: "),
        (("evaluate", "tiny/base", "--dataset", "tiny/ft0"), "--dataset: tiny/ft0@v1 is a checkpoint"),
        (("evaluate", "tiny/base", "--evaluator", "x"), "--evaluator: the operator"),
        (("alias", "set", "tiny/a", "x", "tiny/b@v1"), "REVISION: 'tiny/b@v1' is no version of tiny/a"),
        (("tokens", "create", "ada", "--grant", "tiny=fly"), "--grant"),
        (("quotas", "set", "tiny", "--versions", 2**63), "--versions: expected"),
        (("quotas", "set", "tiny", "--bytes", 2**63), "--bytes: expected"),
        (("tags", "add", "noslash", "x"), "'noslash' is not a valid name: NAMESPACE/NAME"),
        (("private", "noslash"), "'noslash' is not a valid name: NAMESPACE/NAME"),
        (("schedules", "show", "noslash"), "'noslash' is not a valid name: NAMESPACE/NAME"),
        (("extract", "tiny/ft0", "--base", "tiny/base", "--name", "wrong/e", "--alias", "v3"), "'v3' is not a valid"),
        (("extract", "tiny/ft0", "--base", "tiny/base", "--name", "wrong/e", "--rank", 9999), "--rank: it is 9999, "),
    ):
        for place in (here, there):
            code, out, err = place(*arguments)
            wrong = err.splitlines()[-1]  # a job tells first that the server does it
            assert (code, out, wrong.startswith(f"error: {told}")) == (2, "", True), err
    assert there("alias", "rm", "tiny/a", "prod", "--reason", reason)[2].startswith("error: --reason: expected at most")
    beyond = here("extract", "tiny/ft0", tmp_path / "out", "--base", "tiny/base", "--rank", 9999)[2]
    assert beyond.startswith("error: --rank: it is 9999, ")
    assert there("jobs", "ls", "--limit", 100_000)[2].startswith("error: --limit: expected less than")
    assert there("import", "hf:x", "--name", "wrong/a")[2] == (
        "error: SOURCE: 'hf:x' is not hf:ORG/NAME or hf:ORG/NAME@REVISION.\n"
    )
    assert there("merge", recipe, "--name", "wrong/m", "--alias", "v3")[2].startswith(
        "error: 'v3' is not a valid alias"
    )
    file = tmp_path / "nightly.yaml"
    payload: dict[str, Any] = {"name": "noslash", "recipe": json.loads(recipe.read_text())}
    for change, told in (
        ({}, "'noslash' is not a valid name"),
        ({"recipe": None}, "payload.recipe: expected an object"),
    ):
        schedule = {"name": "wrong/n", "cron": "0 3 * * *", "kind": "merge", "payload": payload | change}
        file.write_text(json.dumps(schedule))
        for place in (here, there):
            assert place("schedules", "create", file)[2].startswith(f"error: {told}")
