"""Commands through a server say what they say in the registry itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from graftwork.api.application.app import create_app
from graftwork.api.application.server import running
from graftwork.client import Client
from graftwork.registry.access.grants import Grants
from graftwork.registry.registry import Registry
from graftwork.settings import Settings
from graftwork.testing.family import Family

if TYPE_CHECKING:
    from tests.cli.conftest import Run

TIMES = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\s\",]*|just now|\d+ (second|minute)s? ago")


def timeless(told: tuple[int, str, str]) -> tuple[int, str, str]:
    code, out, err = told
    return code, TIMES.sub("TIME", out), TIMES.sub("TIME", err)


READING = [
    ("ls",),
    ("ls", "ft", "--kind", "checkpoint"),
    ("ls", "nothing"),
    ("show", "tiny/a@prod"),
    ("show", "tiny/ft0"),
    ("show", "tiny/nobody"),
    ("show", "tiny/a@v9"),
    ("show", "tiny/a@@"),
    ("lineage", "tiny/base", "--down", "--relation", "base"),
    ("lineage", "tiny/a@v2", "--up", "--depth", "1"),
    ("tags", "ls"),
    ("tags", "ls", "tiny/a"),
    ("tags", "find", "nightly"),
    ("alias", "ls", "tiny/a"),
    ("alias", "ls", "tiny/ft0"),
    ("alias", "history", "tiny/a", "prod"),
    ("marks",),
    ("audit", "tiny/a", "--limit", "2"),
    ("jobs", "ls"),
    ("jobs", "show", "0123456789ab"),
    ("quotas", "show", "tiny"),
    ("schedules", "ls"),
    ("schedules", "show", "tiny/never"),
    ("tokens", "ls"),
    ("quotas", "ls"),
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_what_is_read_is_the_same(here: Run, there: Run, arguments: tuple[str, ...], form: tuple[str, ...]) -> None:
    told = here(*arguments, *form)
    assert there(*arguments, *form) == told
    assert told[1] or told[2]


CHANGES: list[tuple[str, ...]] = [
    ("tags", "add", "tiny/a", "nightly", "german"),
    ("tags", "rm", "tiny/a", "german", "--json"),
    ("tags", "rm", "tiny/a", "nightly"),
    ("alias", "set", "tiny/a", "beta", "v2", "--reason", "trial"),
    ("alias", "set", "tiny/a", "beta", "v1", "--expected", "v2", "--json"),
    ("alias", "set", "tiny/a", "beta", "v2", "--expected", "v2"),
    ("alias", "set", "tiny/a", "beta", "v2", "--expected", "none"),
    ("alias", "set", "tiny/a", "beta", "v7"),
    ("alias", "rm", "tiny/a", "beta", "--reason", "over"),
    ("alias", "rm", "tiny/a", "beta"),
    ("quarantine", "tiny/a@v2", "--reason", "poisoned"),
    ("marks", "--mark", "quarantined", "--by-hand"),
    ("alias", "set", "tiny/a", "beta", "v2"),
    ("lift", "tiny/a@v2", "--reason", "mistaken"),
    ("lift", "tiny/a@v2", "--json"),
    ("quotas", "set", "acme", "--bytes", "5GB", "--versions", "7"),
    ("quotas", "set", "acme", "--json"),
    ("quotas", "set", "acme", "--bytes", "much"),
    ("withdraw", "tiny/base", "--reason", "in use"),
    ("rebuild", "tiny/ft1", "--without", "--dry-run"),
    ("rebuild", "tiny/ft1", "--without"),
]


def test_what_is_changed_is_said_in_the_same_words(here: Run, there: Run) -> None:
    """The changes undo each other, so that both go through them from the same beginning."""
    assert [timeless(there(*each)) for each in CHANGES] == [timeless(here(*each)) for each in CHANGES]
    reasons = [move["reason"] for move in json.loads(there("alias", "history", "tiny/a", "beta", "--json")[1])]
    assert reasons == ["trial", "", "over"] * 2


def test_a_folder_is_pushed_in_parts_and_comes_back(there: Run, here: Run, family: Family, tmp_path: Path) -> None:
    model = family.fine_tunes["ft0"]
    arguments = ("import", model, "--name", "up/ft0", "--base", "tiny/base", "--alias", "prod", "--json")
    code, out, err = there(*arguments)
    assert code == 0, err
    pushed = json.loads(out)
    assert pushed["digest"] == json.loads(here("show", "tiny/ft0", "--json")[1])["digest"]
    assert json.loads(here("show", "up/ft0@prod", "--json")[1])["number"] == 1
    again = ("import", model, "--name", "up/ft0", "--base", "tiny/base")
    assert there(*again)[2].startswith("up/ft0@v1 (checkpoint, ")
    assert there(*again)[2].endswith(" (already there)\n")
    assert json.loads(there(*again, "--json")[1]) == json.loads(here(*again, "--json")[1])
    assert (pushed["already_there"], json.loads(here(*again, "--json")[1])["already_there"]) == (False, True)
    folder = tmp_path / "back"
    assert there("export", "up/ft0@prod", folder)[2].startswith(f"up/ft0@v1 is in {folder}: ")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        file["path"]: (model / file["path"]).read_bytes() for file in pushed["files"]
    }
    assert there("export", "up/ft0@prod", folder)[0] == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_adapters_and_datasets_are_pushed_too(there: Run, here: Run, family: Family, tmp_path: Path) -> None:
    code, _, err = there("import", family.adapters["adapter0"], "--name", "up/a", "--base", "tiny/base")
    assert (code, err.split(",")[0]) == (0, "up/a@v1 (adapter")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "one two"}\n')
    assert there("import", questions, "--name", "up/q")[2].startswith("up/q@v1 (dataset, ")
    assert json.loads(here("show", "up/q", "--json")[1])["kind"] == "dataset"
    for arguments in (
        ("import", tmp_path / "absent", "--name", "up/x"),
        ("import", questions, "--name", "up/a", "--kind", "dataset"),
        ("import", family.adapters["adapter0"], "--name", "up/b", "--base", "tiny/nobody"),
    ):
        told = here(*arguments)
        assert told[0] != 0
        assert there(*arguments) == told


def test_a_merge_is_waited_for_and_followed(there: Run, here: Run, recipe: Path) -> None:
    local = here("merge", recipe, "--name", "merged/a", "--alias", "prod", "--json")
    code, out, err = there("merge", recipe, "--name", "merged/b", "--alias", "prod", "--json")
    assert code == 0, err
    first, second = json.loads(local[1]), json.loads(out)
    assert (second["ref"], second["digest"]) == ("merged/b@v1", first["digest"])
    assert second.keys() == first.keys()
    job = json.loads(there("jobs", "ls", "--json")[1])[0]
    assert job["kind"] == "merge"
    some = job["id"][:10]
    assert there("jobs", "show", some) == here("jobs", "show", some)
    assert there("jobs", "follow", some) == here("jobs", "follow", some)
    assert "succeeded (attempt 1)" in there("jobs", "follow", some)[1]
    assert there("jobs", "cancel", some) == here("jobs", "cancel", some)
    assert "had ended already: it succeeded" in there("jobs", "cancel", some)[2]
    assert there("merge", recipe)[2] == here("merge", recipe)[2]


def test_ctrl_c_leaves_a_job_to_the_server_and_says_so(
    there: Run, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "wait", interrupted)
    code, _, err = there("merge", recipe, "--name", "merged/left")
    job = json.loads(there("jobs", "ls", "--json")[1])[0]["id"]
    assert code == 130
    assert f"merge job {job}.\nThe job {job} goes on; 'graft jobs cancel {job}' stops it.\n" in err


def test_an_extraction_is_waited_for(there: Run, here: Run) -> None:
    asked = ("extract", "tiny/ft0", "--base", "tiny/base", "--rank", "4")
    local = json.loads(here(*asked, "--name", "extracted/a", "--json")[1])
    code, out, err = there(*asked, "--name", "extracted/b", "--alias", "prod", "--json")
    assert code == 0, err
    assert json.loads(out)["digest"] == local["digest"]
    assert there(*asked, "--name", "extracted/b")[2].endswith("(already there)\n")


def test_a_sweep_is_waited_for_and_its_best_point_registered(there: Run, here: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one two three"}\n')
    assert there("import", texts, "--name", "swept/texts")[0] == 0
    (tmp_path / "linear.json").write_text(
        json.dumps({"merge_method": "linear", "models": [{"model": f"tiny/{name}"} for name in ("base", "ft0")]})
    )
    sweep: dict[str, Any] = {
        "recipe": str(tmp_path / "linear.json"),
        "grid": {"models[1].parameters.weight": [0.0, 0.5]},
    }
    judge = {"dataset": "swept/texts", "metric": "perplexity"}
    file = tmp_path / "sweep.yaml"

    def ask(evaluate: dict[str, Any], *more: str) -> Any:
        file.write_text(json.dumps({**sweep, "evaluate": evaluate}))
        return there("sweep", file, *more)

    code, out, err = ask(judge, "--name", "swept/best", "--alias", "prod")
    assert (code, out.startswith("swept/best@v1 is the best of 2 points, with perplexity ")) == (0, True), err
    best = json.loads(here("show", "swept/best@prod", "--json")[1])
    again = json.loads(ask(judge, "--name", "swept/best", "--json")[1])
    assert (again["ref"], again["digest"], again["already_there"]) == ("swept/best@v1", best["digest"], True)
    assert again["values"].keys() == sweep["grid"].keys()
    for evaluate, more, told in (
        (judge, (), "give --name"),
        (judge, ("--name", "swept/best", "--out", "x"), "--out does not go through a server"),
        ({"command": ["true", "{model}"], "metric": "x"}, ("--name", "swept/best"), "a server does not run it"),
        (
            {**judge, "metric": "x"},
            ("--name", "swept/best"),
            "error: evaluate.metric: a dataset of the task text has no",
        ),
        ({"evaluator": "x", "metric": "x"}, ("--name", "swept/best"), "configured no 'x'"),
    ):
        code, out, err = ask(evaluate, *more)
        assert (code, out, told in err) == (2, "", True), err
    assert "--name and --alias are for a sweep through a server" in here("sweep", file, "--name", "swept/x")[2]


def test_schedules_are_made_run_and_removed(there: Run, here: Run, recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    payload = {"name": "merged/nightly", "recipe": json.loads(recipe.read_text())}
    file.write_text(json.dumps({"name": "tiny/nightly", "cron": "30 2 * * *", "kind": "merge", "payload": payload}))
    told = there("schedules", "create", file)
    assert told[2].startswith("tiny/nightly (merge, 30 2 * * * UTC) next: ")
    assert there("schedules", "create", file) == here("schedules", "create", file)
    for verb in (("pause",), ("show",), ("resume", "--json")):
        assert there("schedules", verb[0], "tiny/nightly", *verb[1:]) == here(
            "schedules", verb[0], "tiny/nightly", *verb[1:]
        )
    made = json.loads(there("schedules", "run", "tiny/nightly", "--json")[1])
    assert made["kind"] == "merge"
    assert there("jobs", "follow", made["id"])[0] == 0
    assert here("schedules", "rm", "tiny/nightly")[2] == "tiny/nightly is removed.\n"
    assert there("schedules", "rm", "tiny/nightly") == here("schedules", "rm", "tiny/nightly")


def test_evaluations_and_rebuilds_are_waited_for(there: Run, here: Run, recipe: Path, tmp_path: Path) -> None:
    questions = tmp_path / "texts.jsonl"
    questions.write_text('{"text": "one two three"}\n')
    assert there("import", questions, "--name", "eval/texts")[0] == 0
    asked = ("evaluate", "tiny/base", "--dataset", "eval/texts")
    first = there(*asked)
    assert (first[0], "tiny/base@v1 perplexity" in first[1]) == (0, True)
    assert there(*asked)[:2] == here(*asked)[:2]
    assert there(*asked, "--json")[:2] == here(*asked, "--json")[:2]
    assert there("merge", recipe, "--name", "rebuilt/a")[0] == 0
    done = there("rebuild", "tiny/ft1", "--without")
    assert (done[0], "rebuilt/a@v2" in done[1]) == (0, True)


def test_tokens_are_made_and_asked_for(shared: Path, invoke: Run, tmp_path: Path) -> None:
    settings = Settings(home=shared, threads=1, auth="required")
    with Registry.open(settings) as registry:
        admin, _ = registry.tokens.create("root", Grants.parse({"*": ["admin"]}))
    with running(create_app(settings)) as url:

        def run(token: str, *arguments: str) -> tuple[int, str, str]:
            environment = {"GRAFTWORK_HOME": str(tmp_path), "GRAFTWORK_URL": url, "GRAFTWORK_TOKEN": token}
            return invoke(environment, *arguments)

        code, secret, err = run(admin, "tokens", "create", "ada", "--grant", "tiny=read")
        assert (code, err.endswith("for ada; keep it, it is not shown again:\n")) == (0, True)
        made = json.loads(run(admin, "tokens", "ls", "--json")[1])[0]
        assert (made["owner"], made["grants"]) == ("ada", {"tiny": ["read"]})
        assert run(secret.strip(), "show", "tiny/a")[0] == 0
        assert run(secret.strip(), "whoami")[1] == "ada may write nowhere.\n"
        assert run(admin, "whoami")[1] == "root may write everywhere.\n"
        writer = run(admin, "tokens", "create", "bo", "--grant", "up=write")[1].strip()
        assert run(writer, "whoami")[1] == "bo may write in up.\n"
        assert json.loads(run(writer, "whoami", "--json")[1])["namespaces"] == ["up"]
        assert run(secret.strip(), "alias", "set", "tiny/a", "prod", "v2")[0] == 5
        assert run(admin, "tokens", "revoke", str(made["id"]))[2].endswith("of ada is good for nothing now.\n")
        for token in (secret.strip(), ""):
            assert run(token, "show", "tiny/a")[0] == 5


def test_where_nobody_is_asked_everything_may_be_written(here: Run, there: Run) -> None:
    assert here("whoami")[1] == "api may write everywhere.\n"
    assert there("whoami")[1] == "local may write everywhere.\n"


def test_the_options_come_before_the_environment(
    there: Run, invoke: Run, shared: Path, url: str, tmp_path: Path
) -> None:
    assert there("ls", "--home", shared) == invoke({"GRAFTWORK_HOME": str(tmp_path)}, "ls", "--server", url)
    assert "Name either --home or --server" in there("ls", "--home", shared, "--server", url)[2]
    assert there("gc", "--home", shared)[0] == 0
    assert invoke({"GRAFTWORK_HOME": str(tmp_path)}, "gc", "--server", url)[0] == 2


def test_a_private_import_goes_through_a_server(there: Run, here: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "one two"}\n')
    assert there("import", texts, "--name", "hidden/texts", "--private")[0] == 0
    assert there("show", "hidden/texts", "--json") == here("show", "hidden/texts", "--json")
    assert json.loads(there("show", "hidden/texts", "--json")[1])["private"]
    assert json.loads(there("public", "hidden/texts", "--json")[1])["private"] is False
    assert there("private", "hidden/texts") == here("private", "hidden/texts")
