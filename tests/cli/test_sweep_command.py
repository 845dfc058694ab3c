"""`graft sweep`: a table and a chart for people, JSON for programs, and failures by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import yaml

if TYPE_CHECKING:
    from graftwork.testing.family import Family
    from tests.cli.conftest import Graft

EVALUATION = """
import json, sys
from pathlib import Path
from safetensors.numpy import load_file
tensors = load_file(Path(sys.argv[1]) / "model.safetensors")
size = float(sum(abs(tensor).astype("float64").sum() for tensor in tensors.values()))
if len(sys.argv) > 2 and size > float(sys.argv[2]):
    raise SystemExit(f"{size} is too large")
print(json.dumps({"size": size, "tensors": len(tensors)}))
"""
WriteSweep = Callable[..., Path]


@pytest.fixture
def write(family: Family, tmp_path: Path) -> WriteSweep:
    """Writes a sweep over the tiny family that looks for the smallest result."""
    script = tmp_path / "eval.py"
    script.write_text(EVALUATION)

    def sweep(*arguments: str, names: bool = False, **more: Any) -> Path:
        base, *models = ["tiny/base", "tiny/ft0"] if names else [str(family.base), str(family.fine_tunes["ft0"])]
        document = {
            "recipe": {"merge_method": "linear", "models": [{"model": base}, *({"model": model} for model in models)]},
            "grid": {"models[1].parameters.weight": [0.5, 0.0, 1.0]},
            "evaluate": {
                "command": [sys.executable, str(script), "{model}", *arguments],
                "metric": "size",
                "goal": "minimise",
            },
        }
        path = tmp_path / "linear.yaml"
        path.write_text(yaml.safe_dump(document | more))
        return path

    return sweep


def test_a_sweep_finds_the_best_and_draws_it(graft: Graft, write: WriteSweep, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = graft("sweep", write(), "--out", out)
    assert told.code == 0, told.stderr
    assert "models[1].parameters.weight" in told.stdout
    assert f"{out / 'best'} is the best of 3 points" in told.stderr
    assert (out / "best" / "model.safetensors").is_file()
    assert len(list((out / "models").iterdir())) == 1
    assert ElementTree.parse(out / "sweep.svg").getroot().tag.endswith("svg")
    again = graft("sweep", write(), "--out", out)
    assert again.stdout.count("from an earlier run") == 3


def test_json_has_every_point(graft: Graft, write: WriteSweep, tmp_path: Path) -> None:
    told = graft("sweep", write(), "--out", tmp_path / "out", "--json", "--keep")
    points = told.json["points"]
    assert [point["values"]["models[1].parameters.weight"] for point in points] == [0.5, 0.0, 1.0]
    assert told.json["best"]["value"] == min(point["value"] for point in points)
    assert all(Path(point["folder"]).is_dir() and point["metrics"]["tensors"] > 0 for point in points)


def test_the_folder_is_named_like_the_file(
    graft: Graft, write: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert graft("sweep", write()).code == 0
    assert (tmp_path / "linear" / "results.jsonl").is_file()


def test_models_of_the_registry_are_swept_too(graft: Graft, write: WriteSweep, tmp_path: Path) -> None:
    assert graft("sweep", write(names=True), "--out", tmp_path / "out").code == 0


def test_points_that_fail_are_named_and_the_rest_is_shown(graft: Graft, write: WriteSweep, tmp_path: Path) -> None:
    sizes = [point["value"] for point in graft("sweep", write(), "--out", tmp_path / "all", "--json").json["points"]]
    told = graft("sweep", write(str(min(sizes))), "--out", tmp_path / "out")
    assert told.code == 1
    assert "error: 2 of 3 points failed; the first, models[1].parameters.weight=" in told.stderr
    assert "is too large" in told.stderr
    assert (tmp_path / "out" / "best").is_dir()


def test_a_wrong_grid_is_one_line_and_no_trace(graft: Graft, write: WriteSweep, tmp_path: Path) -> None:
    told = graft("sweep", write(grid={"models[7].parameters.weight": [1]}), "--out", tmp_path / "out")
    assert told.code == 2
    (line,) = told.stderr.splitlines()
    assert "grid.models[7].parameters.weight: models has 2 entries" in line
    assert not (tmp_path / "out").exists()
    assert graft("sweep", tmp_path / "nothing.yaml").code == 3
