"""Folders as trainers, the Hub's cache and other libraries leave them: merged where they are, from what is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from graftwork.errors import InvalidCheckpoint, InvalidSafetensors, UnsafeFile


def merged(bench: Any, *paths: str) -> Any:
    shutil.rmtree(bench.root / "merged", ignore_errors=True)
    return bench.merge(bench.recipe("linear", list(paths), base=False))


def test_what_lies_beside_the_weights_is_passed_over(bench: Any) -> None:
    paths, weights = bench.family(1)
    folder = Path(paths[1])
    for name in ("training_args.bin", "optimizer.pt", "pytorch_model.bin", "modeling_own.py", "tf_model.h5", "a.csv"):
        (folder / name).write_text("whatever")
    for name in ("onnx/model.onnx", "original/consolidated.00.pth", "runs/events.out.tfevents.1"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("whatever")
    shutil.copytree(paths[0], folder / "checkpoint-500")
    shutil.copy(Path(paths[0]) / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "modeling_own.M"}})
    )
    result = merged(bench, *paths)
    for name, values in result.items():
        np.testing.assert_allclose(values, (weights[0][name] + weights[1][name]) / 2, rtol=1e-6)
    assert {path.name for path in (bench.root / "merged").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "recipe.yaml", "tokenizer.json"
    }  # fmt: skip


def test_a_second_copy_beside_shards_is_passed_over(bench: Any) -> None:
    weights = bench.random(0)
    paths = [bench.write("whole", weights), bench.write("sharded", weights, shards=2)]
    save_file({"other.layout": np.zeros(3, "f4")}, Path(paths[1]) / "consolidated.safetensors")
    assert merged(bench, *paths).keys() == weights.keys()


def test_a_snapshot_in_the_hubs_cache_is_a_model(bench: Any) -> None:
    paths, weights = bench.family(1)
    repository = bench.root / "models--acme--tuned"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(Path(paths[1]).iterdir())):
        shutil.copy(path, repository / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert merged(bench, paths[0], str(snapshot)).keys() == weights[0].keys()
    with pytest.raises(InvalidCheckpoint, match=r"no \.safetensors file; there are in snapshots/abc"):
        merged(bench, paths[0], str(repository))


def test_weights_may_be_a_link_and_settings_may_not(bench: Any) -> None:
    paths, weights = bench.family(1)
    folder = Path(paths[1])
    (folder / "model.safetensors").rename(bench.root / "elsewhere.safetensors")
    (folder / "model.safetensors").symlink_to(bench.root / "elsewhere.safetensors")
    assert merged(bench, *paths).keys() == weights[0].keys()
    (folder / "tokenizer.json").rename(bench.root / "elsewhere.json")
    (folder / "tokenizer.json").symlink_to(bench.root / "elsewhere.json")
    with pytest.raises(UnsafeFile, match=r"model-1/tokenizer\.json is refused: it links to"):
        merged(bench, *paths)


def test_pickles_alone_are_refused_with_a_way_out(bench: Any) -> None:
    paths, _ = bench.family(1)
    (Path(paths[1]) / "model.safetensors").unlink()
    for name in ("optimizer.pt", "pytorch_model-00001-of-00002.bin"):
        (Path(paths[1]) / name).write_text("whatever")
    with pytest.raises(InvalidCheckpoint, match=r"pytorch_model-00001-of-00002\.bin can run code .* load and save"):
        merged(bench, *paths)


def test_a_file_that_git_lfs_did_not_fetch_is_called_by_its_name_and_its_model(bench: Any) -> None:
    paths, _ = bench.family(1)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
    (Path(paths[1]) / "model.safetensors").write_text(pointer)
    with pytest.raises(InvalidSafetensors, match=r"model-1/model\.safetensors .* git lfs pull"):
        merged(bench, *paths)


def test_a_pipeline_with_weights_in_two_modules_is_refused(bench: Any) -> None:
    paths, _ = bench.family(1)
    dense = Path(paths[1]) / "2_Dense"
    dense.mkdir()
    save_file({"linear.weight": np.zeros((2, 2), "f4")}, dense / "model.safetensors")
    modules = [{"path": "", "type": "Transformer"}, {"path": "2_Dense", "type": "Dense"}]
    (Path(paths[1]) / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidCheckpoint, match=r"modules\.json lists 2_Dense, which has weights of its own"):
        merged(bench, *paths)


def test_small_folders_and_a_normalizer_go_along(bench: Any) -> None:
    paths, _ = bench.family(1)
    small = ("1_Pooling/config.json", "additional_chat_templates/tool_use.jinja", "normalizer.json")
    for name in (*small, "wandb/run.log"):
        (Path(paths[0]) / name).parent.mkdir(exist_ok=True)
        (Path(paths[0]) / name).write_text("{}")
    merged(bench, *paths)
    assert [(bench.root / "merged" / name).is_file() for name in small] == [True, True, True]
    assert not (bench.root / "merged" / "wandb").exists()


def test_a_folder_of_everything_is_not_looked_through(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bench.family(1)
    deep = bench.root / "home" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    seen: list[Path] = []
    listed = Path.iterdir

    def noted(folder: Path) -> Iterator[Path]:
        seen.append(folder)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", noted)
    with pytest.raises(InvalidCheckpoint, match=r"holds no \.safetensors file\.$"):
        merged(bench, paths[0], str(bench.root / "home"))
    assert deep.parent in seen
    assert deep not in seen
