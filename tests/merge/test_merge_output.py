"""What the engine promises of every merge: the same bytes however it is cut up, and a whole folder or none."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from graftwork.errors import (
    Cancelled,
    IncompatibleModels,
    InputChanged,
    InvalidCheckpoint,
    InvalidSetting,
    NonFiniteTensor,
    OutputBusy,
    OutputExists,
    StorageFull,
)
from graftwork.merge.models.sources import Source
from graftwork.merge.output.journal import Journal
from graftwork.merge.plan.plan import Plan, plan
from graftwork.merge.run.folder.folder import write_folder
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

GRAIN = 65_536
TIES = {"parameters": {"density": 0.2}}
PAPER = {
    "parameters": {"density": 0.2, "variant": "paper"},
    "modifiers": [{"lines": {"alpha": "auto", "beta": 0.5}}],
}


def fingerprint(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


def nothing_but(root: Path, *names: str) -> bool:
    return {path.name for path in root.iterdir()} == set(names)


@pytest.mark.parametrize(("method", "more"), [("ties", TIES), ("ties", PAPER), ("slerp", {"parameters": {"t": 0.4}})])
def test_bytes_depend_neither_on_the_slices_nor_on_the_threads(bench: Any, method: str, more: dict[str, Any]) -> None:
    paths, _ = bench.family(1 if method == "slerp" else 3, "BF16")
    recipe = bench.recipe(method, paths, **more)
    results = []
    for threads in (1, 2, 3):
        for memory in (GRAIN * 40 * threads, 1_000_000_000):
            out = bench.root / f"merged-{threads}-{memory}"
            merge(recipe, out=out, settings=Settings(threads=threads, memory=memory))
            results.append(fingerprint(out))
    assert all(result == results[0] for result in results)


def test_a_small_memory_limit_cuts_tensors_into_slices(bench: Any) -> None:
    paths, _ = bench.family(1)
    planned = plan(bench.recipe("ties", paths), settings=Settings(threads=2, memory=GRAIN * 30))
    planned.close()
    assert isinstance(planned, Plan)
    assert (planned.slice_elements, planned.threads) == (GRAIN, 2)
    assert planned.buffer_bytes <= GRAIN * 30


def test_a_memory_limit_that_holds_no_slice_is_refused(bench: Any) -> None:
    paths, _ = bench.family(1)
    with pytest.raises(InvalidSetting, match="at least 786432 bytes"):
        plan(bench.recipe("ties", paths), settings=Settings(memory=1000))


@pytest.mark.parametrize("shard_size", ["400KB", "5GB"])
def test_shards_in_and_out_hold_the_same_tensors(bench: Any, shard_size: str) -> None:
    weights = [bench.random(seed) for seed in (0, 1)]
    paths = [bench.write("base", weights[0], shards=3), bench.write("model", weights[1], shards=2)]
    merged = bench.merge(bench.recipe("task_arithmetic", paths, output={"shard_size": shard_size}))
    for name, values in weights[1].items():
        np.testing.assert_allclose(merged[name], values, rtol=1e-5, atol=1e-6)
    index = bench.root / "merged" / "model.safetensors.index.json"
    assert index.exists() == (shard_size == "400KB")
    if index.exists():
        files = set(json.loads(index.read_text())["weight_map"].values())
        assert files == {path.name for path in (bench.root / "merged").glob("*.safetensors")}
        assert len(files) == 3
        assert all((bench.root / "merged" / file).stat().st_size < 410_000 for file in files)


def test_configuration_tokenizer_card_and_recipe_come_along(bench: Any) -> None:
    paths, _ = bench.family(2)
    recipe = bench.recipe("ties", paths, dtype="bfloat16", tokenizer_source=paths[2], output={"name": "acme/merged"})
    bench.merge(recipe)
    merged = bench.root / "merged"
    assert json.loads((merged / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert json.loads((merged / "tokenizer.json").read_text()) == {"from": "model-2"}
    _, front, text = (merged / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == ["model-0", "model-1", "model-2"]
    assert yaml.safe_load(front)["base_model_relation"] == "merge"
    assert "merge_method: ties" in text
    written = yaml.safe_load((merged / "recipe.yaml").read_text())
    assert written["models"] == [{"model": paths[1]}, {"model": paths[2]}]
    assert "output" not in written


def test_integers_are_copied_and_counters_may_differ(bench: Any) -> None:
    base = {"w": np.ones(3, np.float32), "ids": np.arange(9), "mask": np.array([True, False]), "steps": np.array(7)}
    model = {**base, "w": np.zeros(3, np.float32), "steps": np.array(9)}
    merged = bench.merge(bench.recipe("task_arithmetic", [bench.write("base", base), bench.write("model", model)]))
    assert merged["ids"].tolist() == list(range(9))
    assert merged["mask"].tolist() == [True, False]
    assert merged["steps"] == 7


def test_integers_that_differ_are_refused(bench: Any) -> None:
    base = {"w": np.ones(3, np.float32), "packed": np.arange(9, dtype=np.uint8)}
    model = {**base, "packed": np.arange(1, 10, dtype=np.uint8)}
    paths = [bench.write("base", base), bench.write("model", model)]
    with pytest.raises(IncompatibleModels, match="'packed' is U8, which cannot be merged"):
        bench.merge(bench.recipe("ties", paths))
    assert nothing_but(bench.root, "base", "model")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.norm.weight": None}, "it has no tensor 'model.norm.weight'"),
        ({"lm_head.weight": np.ones((2, 2), np.float32)}, "its tensor 'lm_head.weight' is missing there"),
        ({"model.norm.weight": np.ones(14, np.float32)}, r"'model.norm.weight' is \[13\] in the one and \[14\]"),
        ({"model.norm.weight": np.ones(13, np.int64)}, "'model.norm.weight' is F32 in the one and I64"),
    ],
)
def test_models_that_differ_are_named_with_the_tensor(bench: Any, change: dict[str, Any], said: str) -> None:
    base = bench.random(0)
    model = {name: values for name, values in {**base, **change}.items() if values is not None}
    paths = [bench.write("base", base), bench.write("odd", model)]
    with pytest.raises(IncompatibleModels, match=said) as refused:
        bench.merge(bench.recipe("ties", paths))
    assert "odd" in str(refused.value)
    assert nothing_but(bench.root, "base", "odd")


def test_models_of_another_architecture_are_refused(bench: Any) -> None:
    paths, _ = bench.family(1)
    Path(paths[1], "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 5.0}))
    Path(paths[0], "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 1.0}))
    with pytest.raises(IncompatibleModels, match=r"rope_theta is 1\.0 in the one and 5\.0 in the other"):
        bench.merge(bench.recipe("ties", paths))


def test_a_missing_shard_is_refused(bench: Any) -> None:
    paths = [bench.write("base", bench.random(0)), bench.write("model", bench.random(1), shards=2)]
    Path(paths[1], "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidCheckpoint, match=r"model-00002-of-00002\.safetensors"):
        bench.merge(bench.recipe("ties", paths))
    assert nothing_but(bench.root, "base", "model")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_nan_and_infinity_in_an_input_are_refused_by_name(bench: Any, method: str, value: float) -> None:
    paths, weights = bench.family(1)
    weights[1]["model.norm.weight"][3] = value
    paths[1] = bench.write("broken", weights[1])
    more = {"parameters": {"t": 0.5}} if method == "slerp" else {}
    with pytest.raises(NonFiniteTensor, match=r"'model.norm.weight' of .*broken holds 1 NaN or infinite"):
        bench.merge(bench.recipe(method, paths, **more))
    assert not (bench.root / "merged").exists()


def test_an_overflow_of_the_output_dtype_is_refused(bench: Any) -> None:
    tensors = {"w": np.full(4, 1e6, np.float32)}
    recipe = bench.recipe("linear", [bench.write("big", tensors)], base=False, dtype="float16")
    with pytest.raises(NonFiniteTensor, match=r"the merged model \(in F16\)"):
        bench.merge(recipe)


def test_an_output_folder_that_holds_something_is_kept(bench: Any) -> None:
    paths, _ = bench.family(1)
    (bench.root / "merged").mkdir()
    (bench.root / "merged" / "precious").write_text("mine")
    with pytest.raises(OutputExists):
        bench.merge(bench.recipe("ties", paths))
    assert nothing_but(bench.root / "merged", "precious")


def test_an_empty_output_folder_is_taken(bench: Any) -> None:
    paths, _ = bench.family(1)
    (bench.root / "merged").mkdir()
    assert bench.merge(bench.recipe("ties", paths))


def test_two_merges_into_one_folder_do_not_mix(bench: Any) -> None:
    paths, _ = bench.family(1)
    partial = bench.root / "merged.partial"
    partial.mkdir()
    held = os.open(partial, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(OutputBusy):
        bench.merge(bench.recipe("ties", paths))
    assert partial.exists()
    os.close(held)
    assert bench.merge(bench.recipe("ties", paths))
    assert not partial.exists()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_nothing(bench: Any, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    paths, _ = bench.family(1)
    written = os.pwrite

    def fail_late(file: int, data: Any, position: int) -> int:
        if position > 400_000:
            raise OSError(error, os.strerror(error))
        return written(file, data, position)

    monkeypatch.setattr(os, "pwrite", fail_late)
    with pytest.raises(StorageFull):
        bench.merge(bench.recipe("ties", paths))
    assert nothing_but(bench.root, "model-0", "model-1")


def test_a_disk_that_fills_up_under_the_journal_is_named_too(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "add", fail)
    with pytest.raises(StorageFull, match=str(bench.root)):
        bench.merge(bench.recipe("ties", paths))
    assert nothing_but(bench.root, "model-0", "model-1")


def test_a_file_size_limit_is_met_before_anything_is_computed(bench: Any) -> None:
    paths, _ = bench.family(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(StorageFull):
            bench.merge(bench.recipe("ties", paths))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert nothing_but(bench.root, "model-0", "model-1")


def test_a_disk_that_is_too_small_is_said_by_the_plan(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageFull, match="1000"):
        plan(bench.recipe("ties", paths), settings=Settings(), out=bench.root / "merged")


def test_an_input_that_is_replaced_while_it_is_read_is_noticed(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)
    planned = plan(bench.recipe("ties", paths), settings=Settings())
    read = Source.read

    def replace_first(self: Source, *arguments: Any) -> None:
        read(self, *arguments)
        os.utime(Path(paths[1], "model.safetensors"))

    monkeypatch.setattr(Source, "read", replace_first)
    with pytest.raises(InputChanged):
        write_folder(planned, bench.root / "merged")
    assert nothing_but(bench.root, "model-0", "model-1")


def test_a_merge_that_is_cancelled_leaves_nothing(bench: Any) -> None:
    paths, _ = bench.family(1)

    def cancel(stage: str, done: int, total: int) -> None:
        if done > total / 2:
            raise Cancelled(what=stage)

    with pytest.raises(Cancelled):
        merge(bench.recipe("ties", paths), out=bench.root / "merged", settings=Settings(), progress=cancel)
    assert nothing_but(bench.root, "model-0", "model-1")


def test_progress_grows_to_the_end(bench: Any) -> None:
    paths, _ = bench.family(2)
    calls: list[tuple[str, int, int]] = []
    merge(
        bench.recipe("ties", paths, **PAPER),
        out=bench.root / "merged",
        settings=Settings(),
        progress=lambda *call: calls.append(call),
    )
    done = [call[1] for call in calls if call[0] == "merge"]
    assert done == sorted(done)
    assert calls[-1][1] == calls[-1][2] > 0


SLOW_MERGE = """
import signal, sys, time
from pathlib import Path
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background inherits ignored

def slowly(stage, done, total):
    if done:
        print("merging", flush=True)
        time.sleep(0.3)

merge(load_recipe(Path(sys.argv[1])), out=Path(sys.argv[2]), settings=Settings(), progress=slowly)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_merge_shows_no_folder_and_can_be_run_again(bench: Any, sent: signal.Signals) -> None:
    paths, _ = bench.family(1)
    recipe = bench.recipe("ties", paths)
    (bench.root / "recipe.yaml").write_text(recipe.as_yaml())
    arguments = [sys.executable, "-c", SLOW_MERGE, str(bench.root / "recipe.yaml"), str(bench.root / "merged")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(sent)
        child.wait(20)
    assert not (bench.root / "merged").exists()
    assert (bench.root / "merged.partial").exists() == (sent is signal.SIGKILL)
    bench.merge(recipe)
    bench.merge(recipe, "again")
    assert fingerprint(bench.root / "merged") == fingerprint(bench.root / "again")
    assert not (bench.root / "merged.partial").exists()


@pytest.mark.parametrize("options", [[], ["--plan", "--json"]])
def test_a_merge_on_the_cpu_imports_neither_torch_nor_a_database_nor_rooms_it_does_not_enter(
    bench: Any, options: list[str]
) -> None:
    native = pytest.importorskip("graftwork.kernels._native")
    assert native
    paths, _ = bench.family(2, "BF16")
    (bench.root / "recipe.yaml").write_text(bench.recipe("ties", paths, **PAPER).as_yaml())
    script = (
        "import sys\nfrom graftwork.cli.main import main\n"
        "try:\n    main(['merge', *sys.argv[1:]])\nfinally:\n    print(*sys.modules)"
    )
    arguments = [sys.executable, "-c", script, str(bench.root / "recipe.yaml"), str(bench.root / "merged"), *options]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    loaded = set(finished.stdout.splitlines()[-1].split())
    assert not {"torch", "transformers", "peft", "huggingface_hub", "sqlalchemy", "rich"} & loaded
    rooms = ("adapters", "client", "merge.lora", "merge.extract", "merge.permute", "registry.formats.adapters")
    assert not {f"graftwork.{room}" for room in rooms} & loaded
    assert {name for name in loaded if name.startswith("graftwork.merge.methods.")} == {"graftwork.merge.methods.ties"}


def test_planning_is_linear_in_the_number_of_tensors(bench: Any) -> None:
    tensors = {f"model.layers.{layer}.{part}": np.zeros(2, np.float32) for layer in range(500) for part in range(16)}
    paths = [bench.write("base", tensors), bench.write("model", tensors)]
    recipe = bench.recipe("ties", paths, parameters={"weight": [0.1, 0.9], "density": [{"filter": "3", "value": 0.5}]})
    began = time.perf_counter()
    planned = plan(recipe, settings=Settings())
    planned.close()
    assert isinstance(planned, Plan)
    assert len(planned.tensors) == 8000
    assert time.perf_counter() - began < 10
