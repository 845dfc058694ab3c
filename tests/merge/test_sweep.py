"""Sweeps: grids over recipes, evaluations that may fail, and results that outlive the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from graftwork.errors import InvalidSweep, OperationFailed, OutputBusy, SourceNotFound
from graftwork.merge.sweep.chart import draw
from graftwork.merge.sweep.evaluation import Command
from graftwork.merge.sweep.results import Result, ResultLog
from graftwork.merge.sweep.run import Objective, Outcome, Report, run_sweep
from graftwork.merge.sweep.sweep import Point, Steps, expand, load_sweep
from graftwork.settings import Settings

TENSOR = "model.norm.weight"
LAMBDAS = [0.1, 0.2, 0.3, 0.4]
EVALUATION = """
import json, os, pathlib, psutil, signal, sys
from safetensors.numpy import load_file
model, calls, kill_at = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
number = len(calls.read_text().splitlines()) if calls.exists() else 0
with calls.open("a") as file:
    file.write(model.name + "\\n")
if number == kill_at:
    psutil.Process(os.getppid()).parent().send_signal(signal.SIGKILL)  # what started the guard of this command
    sys.exit(9)
value = float(load_file(model / "model.safetensors")["model.norm.weight"][0])
print("measured")
print(json.dumps({"value": value, "closeness": -abs(value - 0.27)}))
"""
RUN = """
import sys
from pathlib import Path
from graftwork.merge.sweep.sweep import load_sweep
from graftwork.merge.sweep.evaluation import Command
from graftwork.merge.sweep.run import Objective, run_sweep
from graftwork.settings import Settings
sweep = load_sweep(Path(sys.argv[1]))
command = Command(sweep.judge.command, sweep.judge.timeout)
objective = Objective("closeness", "maximise")
run_sweep(sweep.points, command, objective, out=Path(sys.argv[2]), settings=Settings(threads=1))
"""


class Reader:
    """Judges a model in this process by one of its numbers; raises for the values in `broken`."""

    identity: Mapping[str, Any] = {"judge": "reader"}

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.broken: set[float] = set()

    def measure(self, model: Path, log: Path) -> dict[str, float]:
        from safetensors.numpy import load_file

        value = round(float(load_file(model / "model.safetensors")[TENSOR][0]), 3)
        self.calls.append(value)
        if value in self.broken:
            raise OperationFailed(what="The evaluation", reason=f"{value} is broken")
        return {"value": value, "closeness": -abs(value - 0.27)}


@pytest.fixture
def raw(bench: Any) -> dict[str, Any]:
    """A recipe whose merged TENSOR is lambda: the base is zeros and the model is ones."""
    shapes = {name: values.shape for name, values in bench.random(0).items()}
    paths = [
        bench.write(name, {tensor: np.full(shape, value, np.float32) for tensor, shape in shapes.items()})
        for name, value in (("base", 0), ("model", 1))
    ]
    return {"merge_method": "task_arithmetic", "base_model": paths[0], "models": [{"model": paths[1]}]}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sweep"


def sweep(
    points: tuple[Point, ...],
    out: Path,
    judge: Reader,
    *,
    goal: Any = "maximise",
    metric: str = "closeness",
    **more: Any,
) -> Report:
    return run_sweep(points, judge, Objective(metric, goal), out=out, settings=Settings(threads=1), **more)


def values(report: Report) -> list[float | None]:
    return [outcome.result.metrics.get("value") for outcome in report.outcomes]


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "models").iterdir())


def test_every_point_is_merged_and_the_best_is_kept(raw: dict[str, Any], out: Path) -> None:
    report = sweep(expand(raw, {"parameters.lambda": LAMBDAS}), out, Reader())
    assert values(report) == LAMBDAS
    assert report.best is not None
    assert report.best.point.values == {"parameters.lambda": 0.3}
    assert folders(out) == [report.best.result.key[:16]]
    assert (out / "best").resolve() == report.folders[report.best.result.key].resolve()
    assert (out / "best" / "model.safetensors").is_file()


def test_keep_keeps_them_all_and_makes_missing_ones_again(raw: dict[str, Any], out: Path) -> None:
    points, judge = expand(raw, {"parameters.lambda": LAMBDAS}), Reader()
    sweep(points, out, judge)
    report = sweep(points, out, judge, keep_all=True)
    assert len(folders(out)) == len(report.folders) == len(LAMBDAS)
    assert len(judge.calls) == len(LAMBDAS)


def test_minimise_finds_the_smallest(raw: dict[str, Any], out: Path) -> None:
    report = sweep(expand(raw, {"parameters.lambda": LAMBDAS}), out, Reader(), goal="minimise", metric="value")
    assert report.best is not None
    assert report.best.value == 0.1


def test_a_second_run_evaluates_only_what_is_new(raw: dict[str, Any], out: Path) -> None:
    judge = Reader()
    sweep(expand(raw, {"parameters.lambda": LAMBDAS[:2]}), out, judge)
    report = sweep(expand(raw, {"parameters.lambda": LAMBDAS}), out, judge)
    assert judge.calls == LAMBDAS
    assert [outcome.taken_over for outcome in report.outcomes] == [True, True, False, False]
    assert len(folders(out)) == 1


def test_changed_inputs_are_evaluated_again(raw: dict[str, Any], out: Path, bench: Any) -> None:
    judge, points = Reader(), expand(raw, {"parameters.lambda": [0.5]})
    sweep(points, out, judge)
    weights = bench.root / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = np.float32(2).tobytes()
    weights.write_bytes(data)
    sweep(points, out, judge)
    assert len(judge.calls) == 2


def test_failures_are_named_recorded_and_tried_again(raw: dict[str, Any], out: Path) -> None:
    judge, points = Reader(), expand(raw, {"parameters.lambda": LAMBDAS})
    judge.broken = {0.3}
    report = sweep(points, out, judge)
    assert [outcome.result.error for outcome in report.failed] == ["The evaluation failed: 0.3 is broken."]
    assert report.best is not None
    assert report.best.value == pytest.approx(-0.07)
    judge.broken = set()
    report = sweep(points, out, judge)
    assert report.failed == ()
    assert judge.calls == [*LAMBDAS, 0.3]


def test_a_metric_that_is_not_there_is_named(raw: dict[str, Any], out: Path) -> None:
    report = sweep(expand(raw, {"parameters.lambda": [0.1]}), out, Reader(), metric="f1")
    assert report.best is None
    assert report.outcomes[0].result.error == "The evaluation gave no 'f1'; it gave value, closeness."
    assert not (out / "best").exists()


def test_two_processes_on_one_folder_are_refused(raw: dict[str, Any], out: Path) -> None:
    points = expand(raw, {"parameters.lambda": [0.1]})

    class Nested(Reader):
        def measure(self, model: Path, log: Path) -> dict[str, float]:
            with pytest.raises(OutputBusy, match="sweep"):
                sweep(points, out, Reader())
            return super().measure(model, log)

    assert sweep(points, out, Nested()).best is not None


@pytest.mark.parametrize("kill_at", [0, 2])
def test_after_sigkill_the_sweep_goes_on(raw: dict[str, Any], tmp_path: Path, out: Path, kill_at: int) -> None:
    script, calls, runner = tmp_path / "eval.py", tmp_path / "calls.txt", tmp_path / "run.py"
    script.write_text(EVALUATION)
    runner.write_text(RUN)
    file = tmp_path / "sweep.yaml"
    command = [sys.executable, str(script), "{model}", str(calls), str(kill_at)]
    document = {
        "recipe": raw,
        "grid": {"parameters.lambda": LAMBDAS},
        "evaluate": {"command": command, "metric": "closeness"},
    }
    file.write_text(yaml.safe_dump(document))
    arguments = [sys.executable, str(runner), str(file), str(out)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    with (out / "results.jsonl").open("a") as log:
        log.write('{"key": "cut sho')
    subprocess.run(arguments, check=True)
    judged = calls.read_text().splitlines()
    assert len(judged) == len(LAMBDAS) + 1
    assert judged[kill_at] == judged[kill_at + 1]
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [round(result["metrics"]["value"], 3) for result in results] == LAMBDAS
    assert len(folders(out)) == 1


def test_a_folder_half_removed_is_never_taken_for_a_model(raw: dict[str, Any], out: Path) -> None:
    points = expand(raw, {"parameters.lambda": [0.1, 0.2]})
    sweep(points, out, Reader())
    (out / "models" / "0123456789abcdef.discarded").mkdir()
    sweep(points, out, Reader())
    assert len(folders(out)) == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "expected keys"),
        ("parameters..lambda", "expected keys"),
        ("models[x].parameters.weight", "expected keys"),
        ("[0].weight", "expected keys"),
        ("models[1].parameters.weight", r"models has 1 entry"),
        ("modifiers[0].lines.beta", "modifiers is not in the recipe"),
        ("merge_method.ties", "merge_method is 'task_arithmetic', not a mapping"),
        ("base_model[0]", "base_model is '.*', not a list"),
        ("paramters.lambda", r"did you mean parameters\?"),
    ],
)
def test_a_bad_path_is_refused_by_name(raw: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidSweep, match=words) as refused:
        expand(raw, {path: [1]})
    assert path in str(refused.value)


def test_a_point_that_is_no_merge_is_refused_before_the_first(raw: dict[str, Any], out: Path) -> None:
    judge = Reader()
    for path in ("parameters.lamda", "parameters.t"):
        with pytest.raises(InvalidSweep, match=rf"the point {path}=0\.5: .*lambda"):
            sweep(expand(raw, {path: [0.5]}), out, judge)
    assert judge.calls == []
    assert not out.exists()


def test_paths_that_contain_one_another_are_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidSweep, match=r"grid\.parameters\.lambda: grid\.parameters sets what it lies in"):
        expand(raw, {"parameters.lambda": [1], "parameters": [{}]})


def test_values_are_put_where_the_path_leads(raw: dict[str, Any]) -> None:
    raw |= {"modifiers": [{"lines": {"alpha": 0.5, "beta": 0}}]}
    before = json.dumps(raw)
    grid: dict[str, list[Any]] = {
        "models[0].parameters.weight": [1, 2],
        "modifiers[0].lines.beta": [0.1, 0.2],
        "seed": [7],
    }
    points = expand(raw, grid)
    assert json.dumps(raw) == before
    assert [tuple(point.values.values()) for point in points] == [(1, 0.1, 7), (1, 0.2, 7), (2, 0.1, 7), (2, 0.2, 7)]
    last = points[-1].recipe
    assert last.models[0].parameters == {"weight": 2}
    assert last.seed == 7
    assert last.modifiers[0].model_dump(exclude_none=True)["lines"]["beta"] == 0.2


def test_steps_are_decimal() -> None:
    assert Steps.model_validate({"from": 0.1, "to": 0.5, "step": 0.1}).values() == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert Steps.model_validate({"from": 1, "to": 6, "step": 2}).values() == (1, 3, 5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"grid": {}}, "grid"),
        ({"grid": {"seed": []}}, r"grid\.seed: there are no values"),
        ({"grid": {"seed": 1}}, r"grid\.seed: expected a list"),
        ({"grid": {"seed": {"from": 0, "to": 1, "step": 0}}}, r"grid\.seed: expected a list"),
        ({"grid": {"seed": {"from": 1, "to": 0.2, "step": 0.1}}}, r"grid\.seed: from 1 to 0\.2 goes backwards"),
        ({"evaluate": {"command": ["pyhton", "{model}"], "metric": "m"}}, "there is no program 'pyhton'"),
        ({"grid": {"seed": {"from": 0, "to": 1e9, "step": 1}}}, "at most 10,000"),
        ({"evaluate": {"command": ["x"], "metric": "m"}}, r"evaluate\.command: no argument holds \{model\}"),
        ({"evaluate": {"command": ["{model}"], "metric": "m", "gaol": 1}}, r"evaluate\.gaol: .*did you mean goal"),
        ({"evaluate": {"command": ["{model}"]}}, r"evaluate\.metric"),
        ({"gird": {}}, r"gird: .*did you mean grid"),
        ({"recipe": 3}, "recipe"),
    ],
)
def test_a_sweep_file_that_is_wrong_is_refused_by_name(
    raw: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    document = {"recipe": raw, "grid": {"seed": [1]}, "evaluate": {"command": ["true", "{model}"], "metric": "m"}}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(document | change))
    with pytest.raises(InvalidSweep, match=words):
        load_sweep(file)


def test_the_recipe_may_be_a_file(raw: dict[str, Any], tmp_path: Path) -> None:
    recipe, file = tmp_path / "recipe.yaml", tmp_path / "sweep.yaml"
    document = {"recipe": str(recipe), "grid": {"seed": [1]}, "evaluate": {"command": ["{model}"], "metric": "m"}}
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(SourceNotFound, match=r"recipe\.yaml"):
        load_sweep(file)
    recipe.write_text(yaml.safe_dump(raw))
    assert load_sweep(file).points[0].recipe.seed == 1


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise ValueError('no data')", "exit code 1: ValueError: no data"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ("import time; time.sleep(60)", r"longer than 0\.5 s"),
        ("pass", "nothing on stdout"),
        ("print('done')", "'done' on stdout"),
        ("print('[1]')", "not with a JSON object"),
        ("print('{\"accuracy\": NaN}')", "accuracy is nan"),
    ],
)
def test_an_evaluation_that_fails_says_how(tmp_path: Path, program: str, words: str) -> None:
    command = Command((sys.executable, "-c", program, "{model}"), 0.5 if "sleep" in program else 30)
    with pytest.raises(OperationFailed, match=words):
        command.measure(tmp_path, tmp_path / "log.txt")


def test_an_evaluation_that_is_no_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed, match="frobnicate: No such file"):
        Command(("frobnicate", "{model}"), 1).measure(tmp_path, tmp_path / "log.txt")


def test_metrics_are_the_numbers_of_the_last_line(tmp_path: Path) -> None:
    program = """print("loading"); print('{"a": 1, "ok": true, "name": "x", "tasks": {"one": 0.5}}')"""
    command = Command((sys.executable, "-c", program, "{model}"), 30)
    assert command.measure(tmp_path, tmp_path / "log.txt") == {"a": 1.0, "tasks.one": 0.5}


def test_an_edited_script_is_another_evaluation(tmp_path: Path) -> None:
    script = tmp_path / "eval.py"
    script.write_text("print(1)")
    command = Command(("python", str(script), "{model}"), 1)
    before = command.identity
    script.write_text("print(12)")
    assert command.identity != before


def test_a_log_drops_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = (Result(key, "r", {"x": 1}, {"m": 0.5}, None, 1.0) for key in "ab")
    with ResultLog(path) as log:
        log.append(first)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with ResultLog(path) as log:
        assert log.find("a") == first
        log.append(second)
    with ResultLog(path) as log:
        assert [log.find(key) for key in "abc"] == [first, second, None]


def report_of(grid: list[tuple[dict[str, Any], float | None]]) -> Report:
    outcomes = tuple(
        Outcome(Point(values, None), Result("k", "r", values, {}, None, 1.0), value, taken_over=False)  # type: ignore[arg-type]
        for values, value in grid
    )
    return Report(outcomes, Objective("m", "maximise").best(outcomes), {})


@pytest.mark.parametrize(
    ("grid", "lines", "spots"),
    [
        ([({"x": 0.1}, 0.5), ({"x": 0.2}, 0.7)], 1, 3),
        ([({"x": 0.1, "name": n}, 0.5) for n in "ab"], 0, 3),
        ([({"x": x, "y": y}, x * y) for x in (1, 2, 3) for y in (1, 2)], 2, 7),
        ([({"x": 0.1}, 0.5), ({"x": 0.2}, None)], 1, 2),
        ([({"x": "<a&b>"}, 0.5)], 0, 2),
        ([({"x": [0, 1]}, 0.5), ({"x": {"k": 1}}, 0.5)], 0, 3),
        ([({"x": 1}, None)], 0, 0),
    ],
)
def test_the_chart_is_a_picture_of_every_point(grid: Any, lines: int, spots: int) -> None:
    root = ElementTree.fromstring(draw(report_of(grid), "m", "maximise"))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}polyline")) == lines
    circles = root.findall(f"{space}circle")
    assert len(circles) == spots
    assert all(
        0 <= float(circle.get("cx", "")) <= 760 and 0 <= float(circle.get("cy", "")) <= 440 for circle in circles
    )
