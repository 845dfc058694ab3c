"""What each command does, and what it prints for people and for programs."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from graftwork.registry.registry import Registry
from graftwork.settings import Settings

if TYPE_CHECKING:
    from graftwork.testing.family import Family
    from tests.cli.conftest import Graft

ARITHMETIC = {
    "merge_method": "task_arithmetic",
    "base_model": "tiny/base",
    "models": [{"model": f"tiny/ft{number}", "parameters": {"weight": 0.5}} for number in range(2)],
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(ARITHMETIC))
    return path


def test_import_registers_and_says_what(graft: Graft, family: Family) -> None:
    told = graft("import", family.fine_tunes["ft0"], "--name", "new/one", "--base", "tiny/base", "--alias", "x")
    assert told.code == 0
    assert told.stdout == ""
    assert "new/one@v1" in told.stderr
    assert "already there" not in told.stderr
    assert graft("show", "new/one@x", "--json").json["kind"] == "checkpoint"
    again = graft("import", family.fine_tunes["ft0"], "--name", "new/one", "--base", "tiny/base", "--json")
    assert again.json["number"] == 1


def test_what_a_trainer_keeps_beside_a_model_stays_there_and_is_named(
    graft: Graft, family: Family, tmp_path: Path
) -> None:
    folder = shutil.copytree(family.base, tmp_path / "trained")
    (folder / "checkpoint-5").mkdir()
    for name in ("training_args.bin", "rng_state_0.pth", "checkpoint-5/optimizer.pt", "checkpoint-5/model.safetensors"):
        (folder / name).write_bytes(b"x")
    told = graft("import", folder, "--name", "new/trained")
    assert "only trainers read them: checkpoint-5, rng_state_0.pth, training_args.bin" in told.stderr
    assert graft("show", "new/trained", "--json").json["digest"] == graft("show", "tiny/base", "--json").json["digest"]


def test_ls_is_a_table_for_people_and_json_for_programs(graft: Graft) -> None:
    table = graft("ls")
    lines = {line.split()[0]: line.split() for line in table.stdout.splitlines() if line.startswith(" tiny/")}
    assert lines["tiny/a"][1:5] == ["adapter", "v2", "prod", "tiny/base"]
    assert "1 adapter, 1 base, 2 checkpoints" in table.stderr
    assert [found["name"] for found in graft("ls", "ft", "--json").json] == ["tiny/ft0", "tiny/ft1"]
    assert [found["name"] for found in graft("ls", "--kind", "adapter", "--json").json] == ["tiny/a"]
    assert graft("ls", "--namespace", "none", "--json").json == []
    assert "Nothing" in graft("ls", "--namespace", "none").stderr


def test_ls_names_the_newest_version_and_not_their_number(graft: Graft, family: Family) -> None:
    for folder in family.adapters.values():
        assert graft("import", folder, "--name", "tiny/b", "--base", "tiny/base").code == 0
    assert graft("withdraw", "tiny/b@v1", "--json").json[0]["mark"] == "withdrawn"
    row = next(line.split() for line in graft("ls", "tiny/b").stdout.splitlines() if "tiny/b " in line)
    assert row[2] == "v2"


def test_an_empty_registry_says_how_to_begin(graft: Graft, tmp_path: Path) -> None:
    assert "graft import" in graft("ls", "--home", tmp_path / "empty").stderr


def test_show_tells_of_files_tensors_and_parents(graft: Graft) -> None:
    told = graft("show", "tiny/a@prod")
    assert {"tiny/a@v1", "adapter_model.safetensors", "tiny/base@v1"} <= set(told.stdout.split())
    detail = graft("show", "tiny/a@prod", "--json").json
    assert detail["aliases"] == ["prod"]
    assert detail["tensors"]["count"] == 28


def test_an_alias_is_listed_moved_and_removed_with_its_history(graft: Graft) -> None:
    first, second = (graft("show", f"tiny/a@v{number}", "--json").json["digest"] for number in (1, 2))
    assert graft("alias", "ls", "tiny/a", "--json").json[0]["digest"] == first
    moved = graft("alias", "set", "tiny/a", "prod", "v2", "--expected", "v1", "--reason", "better", "--json")
    assert moved.json["digest"] == second
    assert "v2" in graft("alias", "ls", "tiny/a").stdout
    assert graft("alias", "set", "tiny/a", "beta", "tiny/a@prod", "--expected", "none").code == 0
    assert graft("alias", "rm", "tiny/a", "prod").code == 0
    moves = graft("alias", "history", "tiny/a", "prod", "--json").json
    assert [(move["before"], move["after"]) for move in moves] == [(None, first), (first, second), (second, None)]
    assert moves[1]["reason"] == "better"
    shown = graft("alias", "history", "tiny/a", "prod").stdout
    assert ("better" in shown, f"v1 {moves[0]['after'][:12]}" in shown) == (True, True)


def test_lineage_is_drawn_as_a_tree(graft: Graft) -> None:
    tree = graft("lineage", "tiny/base").stdout
    assert "made into" in tree
    assert "made from" not in tree
    assert all(ref in tree for ref in ("tiny/ft0@v1", "tiny/ft1@v1", "tiny/a@v1", "tiny/a@v2"))
    up = graft("lineage", "tiny/a", "--up").stdout
    assert "tiny/base@v1" in up
    assert "tiny/ft0" not in up
    assert graft("lineage", "tiny/base", "--depth", "0", "--json").json["edges"] == []


def test_export_gives_the_files_back_byte_for_byte(graft: Graft, family: Family, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert graft("export", "tiny/a@v1", out).code == 0
    source = family.adapters["adapter0"]
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in source.iterdir())
    assert filecmp.cmpfiles(source, out, names, shallow=False) == (names, [], [])


def test_verify_finds_a_flipped_byte(graft: Graft, home: Path) -> None:
    assert "is whole" in graft("verify", "tiny/a").stdout
    digest = next(
        file["sha256"]
        for file in graft("show", "tiny/a", "--json").json["files"]
        if file["path"].endswith(".safetensors")
    )
    blob = next(home.rglob(digest))
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    told = graft("verify", "tiny/a")
    assert told.code == 1
    assert digest in told.stderr


def test_merge_registers_the_result_with_its_lineage(graft: Graft, recipe: Path) -> None:
    merged = graft("merge", recipe, "--name", "tiny/merged", "--alias", "candidate", "--json")
    assert merged.code == 0
    assert graft("show", "tiny/merged@candidate", "--json").json["digest"] == merged.json["digest"]
    parents = {parent["ref"]: parent["relation"] for parent in graft("show", "tiny/merged", "--json").json["parents"]}
    assert parents["tiny/ft0@v1"] == parents["tiny/ft1@v1"] == "merge_input"
    again = graft("merge", recipe, "--name", "tiny/merged").stderr
    assert "tiny/merged@v1" in again
    assert "(already there)" in again


def test_merge_writes_a_folder_of_paths_without_any_registry(graft: Graft, family: Family, tmp_path: Path) -> None:
    recipe = {**ARITHMETIC, "base_model": str(family.base)}
    recipe["models"] = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in family.fine_tunes.values()]
    path = tmp_path / "paths.yaml"
    path.write_text(yaml.safe_dump(recipe))
    told = graft("merge", path, tmp_path / "out", "--home", tmp_path / "nowhere", "--memory", "64MB", "--json")
    assert told.json["folder"] == str(tmp_path / "out")
    assert {"model.safetensors", "config.json", "README.md"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "nowhere").exists()


def test_a_configuration_that_the_registry_refuses_is_refused_before_anything_is_merged(
    graft: Graft, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(family.base, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"merge_method": "passthrough", "models": [{"model": str(model)}]}))
    assert graft("merge", path, tmp_path / "out").code == 0
    monkeypatch.setattr("graftwork.merge.run.publish.write_folder", None)
    told = graft("merge", path, "--name", "tiny/own")
    assert told.code == 1
    assert told.stderr.endswith("error: config.json is refused: its auto_map asks for code to be run.\n")


def test_merge_reads_a_recipe_from_stdin(graft: Graft, recipe: Path, tmp_path: Path) -> None:
    assert graft("merge", "-", tmp_path / "out", stdin=recipe.read_bytes()).code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    told = graft("merge", "-", tmp_path / "other", stdin=b"\xff")
    assert (told.code, told.stderr) == (2, "error: The recipe is not valid at stdin: it is not text in UTF-8.\n")


def test_a_folder_is_no_recipe(graft: Graft, tmp_path: Path) -> None:
    told = graft("merge", tmp_path, tmp_path / "out")
    assert (told.code, told.stderr.endswith("it is a folder; expected a file of YAML.\n")) == (2, True)


def test_merge_may_mix_references_and_a_folder(graft: Graft, recipe: Path, tmp_path: Path) -> None:
    assert graft("merge", recipe, tmp_path / "out").code == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_plan_says_what_would_be_done_and_does_nothing(graft: Graft, recipe: Path, tmp_path: Path) -> None:
    plan = graft("merge", recipe, tmp_path / "out", "--plan", "--json")
    assert plan.json["method"] == "task_arithmetic"
    assert plan.json["output_bytes"] > 0
    assert not (tmp_path / "out").exists()
    assert "needs a name" in graft("merge", recipe, "--plan").stderr
    assert graft("merge", recipe, "--plan", "--name", "merged").code == 2
    assert "of kind base" in graft("merge", recipe, "--plan", "--name", "tiny/base").stderr
    named = ("merge", recipe, "--name", "tiny/merged", "--alias", "candidate")
    shown = graft(*named, "--plan").stdout
    for said in ("task_arithmetic", "tiny/ft0@v1 (tiny/ft0)  weight 0.5", "tiny/merged, alias candidate"):
        assert said in shown
    assert "made before" not in shown
    assert graft(*named).code == 0
    assert graft(*named, "--plan", "--json").json["made_before"] == "tiny/merged@v1"


def test_methods_lists_all_and_describes_one(graft: Graft) -> None:
    assert {"linear", "ties", "slerp"} <= {method["name"] for method in graft("methods", "--json").json}
    assert "task_arithmetic" in graft("methods").stdout
    described = graft("methods", "ties").stdout
    assert "density" in described
    assert "number, at least 0, at most 1" in described


def test_jobs_are_listed_shown_and_cancelled(graft: Graft, home: Path) -> None:
    assert "no jobs" in graft("jobs", "ls").stderr
    with Registry.open(Settings(home=home)) as registry:
        job = registry.jobs.enqueue("merge", {"recipe": {}})
        other = registry.jobs.enqueue("gc", {})
    assert [listed["id"] for listed in graft("jobs", "ls", "--json").json] == [other.id, job.id]
    assert "queued" in graft("jobs", "ls").stdout
    shown = graft("jobs", "show", job.id[:8]).stdout
    assert {job.id, "attempt", "recipe:"} <= set(shown.replace("(", " ").split())
    assert graft("jobs", "show", "").code == 3
    assert graft("jobs", "cancel", job.id[:8], "--json").json["state"] == "cancelled"
    assert "had ended already: it was cancelled" in graft("jobs", "cancel", job.id).stderr
    assert "is cancelled" in graft("jobs", "cancel", other.id).stderr
    assert "cancelled (attempt 0)" in graft("jobs", "follow", other.id).stdout
