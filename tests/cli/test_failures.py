"""What goes wrong is one line on stderr, an exit code, and no trace."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from graftwork.registry.registry import Registry

if TYPE_CHECKING:
    from graftwork.testing.family import Family
    from tests.cli.conftest import Graft, Told

WEIGHTS = "adapter_model.safetensors"


class Space(NamedTuple):
    total: int
    used: int
    free: int


def assert_refused(told: Told, code: int, *words: str) -> None:
    """One line that begins with `error:` and holds `words`, nothing on stdout, and the exit code."""
    assert told.code == code, told.stderr
    assert told.stdout == ""
    (line,) = told.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


@pytest.fixture
def untouched(home: Path, tmp_path: Path) -> Iterator[None]:
    """The registry holds after the test what it held before, and the folder `out` was not begun.

    Snapshots are left out: they are links to blobs, made when a version is first read.
    """

    def state() -> set[str]:
        files = {str(path) for path in home.rglob("*") if path.is_file() and "registry.db" not in path.name}
        return {path for path in files if not path.startswith(str(home / "snapshots"))}

    before = state()
    yield
    assert state() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("out", ".out"))]


@pytest.fixture
def adapter(family: Family, tmp_path: Path) -> Path:
    """A copy of an adapter, to be spoilt."""
    return Path(shutil.copytree(family.adapters["adapter0"], tmp_path / "adapter"))


@pytest.fixture
def checkpoint(family: Family, tmp_path: Path) -> Path:
    """A copy of a fine-tune, to be spoilt."""
    return Path(shutil.copytree(family.fine_tunes["ft0"], tmp_path / "checkpoint"))


def rewrite(path: Path, change: Any) -> None:
    save_file(change(load_file(path)), path, {"format": "pt"})


def import_adapter(graft: Graft, folder: Path) -> Told:
    return graft("import", folder, "--name", "bad/adapter", "--base", "tiny/base")


@pytest.mark.usefixtures("untouched")
def test_a_pickle_is_refused(graft: Graft, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    assert_refused(graft("import", checkpoint, "--name", "bad/pickle"), 1, "pytorch_model.bin", ".safetensors only")


@pytest.mark.usefixtures("untouched")
def test_a_truncated_file_is_refused(graft: Graft, checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    assert_refused(graft("import", checkpoint, "--name", "bad/cut"), 1, "model.safetensors")


@pytest.mark.usefixtures("untouched")
def test_overlapping_tensors_are_refused(graft: Graft, adapter: Path) -> None:
    data = (adapter / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    (adapter / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    assert_refused(import_adapter(graft, adapter), 1, WEIGHTS)


@pytest.mark.usefixtures("untouched")
def test_an_adapter_for_another_base_is_refused(graft: Graft, adapter: Path) -> None:
    def widen(tensors: Any) -> Any:
        return {name: torch.zeros(t.shape[0], 48) if "lora_A" in name else t for name, t in tensors.items()}

    rewrite(adapter / WEIGHTS, widen)
    assert_refused(import_adapter(graft, adapter), 1, "bad/adapter", "tiny/base")


@pytest.mark.usefixtures("untouched")
def test_a_rank_mismatch_is_refused(graft: Graft, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": config["r"] + 1}))
    assert_refused(import_adapter(graft, adapter), 1, "rank")


@pytest.mark.usefixtures("untouched")
def test_an_adapter_whose_base_is_not_known_asks_for_it(graft: Graft, adapter: Path) -> None:
    assert_refused(graft("import", adapter, "--name", "bad/adapter"), 2, "base")


@pytest.mark.usefixtures("untouched")
def test_a_missing_shard_is_refused(graft: Graft, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: shards[index % 2] for index, name in enumerate(tensors)}
    save_file({name: tensors[name] for name, file in weight_map.items() if file == shards[0]}, checkpoint / shards[0])
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_refused(graft("import", checkpoint, "--name", "bad/shards"), 1, shards[1])


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"desnity": 0.5}, ("desnity", "density")),
        ({"density": -1}, ("density", "-1")),
        ({"density": 2}, ("density", "2")),
    ],
)
@pytest.mark.parametrize("to_folder", [True, False])
def test_a_parameter_that_makes_no_sense_is_refused(
    graft: Graft, tmp_path: Path, parameters: dict[str, Any], words: tuple[str, ...], to_folder: bool
) -> None:
    models = [{"model": f"tiny/ft{number}", "parameters": {"weight": 1}} for number in range(2)]
    recipe = {"merge_method": "ties", "base_model": "tiny/base", "models": models, "parameters": parameters}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    target = [tmp_path / "out"] if to_folder else ["--name", "bad/merge"]
    assert_refused(graft("merge", tmp_path / "recipe.yaml", *target), 2, *words)


@pytest.mark.usefixtures("untouched")
def test_two_models_with_different_tensors_are_refused(graft: Graft, checkpoint: Path, tmp_path: Path) -> None:
    rewrite(checkpoint / "model.safetensors", lambda tensors: dict(list(tensors.items())[:-1]))
    models = [{"model": str(checkpoint)}, {"model": "tiny/ft1"}]
    recipe = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert_refused(graft("merge", tmp_path / "recipe.yaml", tmp_path / "out"), 1, "tiny/ft1")


@pytest.mark.usefixtures("untouched")
def test_a_full_disk_is_told_before_anything_is_written(
    graft: Graft, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Space(100, 90, 10))
    told = graft("import", family.base, "--name", "bad/full")
    assert_refused(told, 1, "10")


def test_what_is_not_there_is_exit_code_3(graft: Graft, tmp_path: Path) -> None:
    for arguments in (
        ("show", "tiny/nothing"),
        ("show", "tiny/a@nothing"),
        ("alias", "rm", "tiny/a", "nothing"),
        ("jobs", "show", "nothing"),
        ("import", str(tmp_path / "nothing"), "--name", "a/b"),
        ("merge", str(tmp_path / "nothing.yaml")),
    ):
        assert_refused(graft(*arguments), 3)


def test_what_conflicts_is_exit_code_4(graft: Graft, family: Family, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    for arguments in (
        ("alias", "set", "tiny/a", "prod", "v2", "--expected", "v2"),
        ("import", str(family.base), "--name", "tiny/a"),
        ("export", "tiny/a", str(tmp_path)),
    ):
        assert_refused(graft(*arguments), 4)


def test_a_wrong_command_line_is_exit_code_2(graft: Graft, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (
        ("frobnicate",),
        ("ls", "--frobnicate"),
        ("show",),
        ("show", "no-namespace"),
        ("merge", "recipe.yaml", "out", "--name", "a/b"),
        ("merge", "recipe.yaml", "--memory", "lots"),
        ("serve", "--engine", "vllm"),
        ("serve", "--engine-url", "http://127.0.0.1:1"),
        ("alias", "set", "tiny/a", "prod", "tiny/base@v1"),
        ("quotas", "set", "tiny", "--bytes", "50XB"),
        ("lineage", "tiny/a", "--relation", "cousin"),
        ("audit", "--action", "version.frobnicate"),
        ("ls", "--server", "nowhere"),
        ("jobs", "cancel"),
    ):
        assert_refused(graft(*arguments), 2)
    monkeypatch.setenv("GRAFTWORK_TYPO", "1")
    assert_refused(graft("ls"), 2, "GRAFTWORK_TYPO")


def test_an_option_before_the_command_is_told_its_place(graft: Graft) -> None:
    assert_refused(graft("--server", "http://127.0.0.1:1", "ls"), 2, "options go after the command")


def test_a_folder_that_cannot_be_made_is_one_line_too(graft: Graft) -> None:
    assert_refused(graft("ls", "--home", "/dev/null/home"), 2, "GRAFTWORK_HOME is '/dev/null/home'")


def test_ctrl_c_is_quiet(graft: Graft, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(settings: object) -> Registry:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "open", interrupt)
    told = graft("ls")
    assert (told.code, told.stdout, told.stderr.strip()) == (130, "", "")
