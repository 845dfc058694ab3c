from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graftwork.errors import GraftworkError, InvalidCheckpoint, SourceNotFound, TooLarge, UnsafeFile
from graftwork.registry.formats import folder
from graftwork.registry.formats.checkpoint import read_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    save_file({"w": np.zeros((2, 3), "f4")}, root / "model.safetensors")
    (root / "config.json").write_text('{"model_type": "llama"}')
    return root


@pytest.fixture
def sharded(tmp_path: Path, family: dict[str, Path]) -> Path:
    return shutil.copytree(family["sharded"], tmp_path / "sharded")


def test_a_folder_that_transformers_wrote_is_read_whole(family: dict[str, Path]) -> None:
    layout = read_checkpoint(family["base"])
    truth = load_file(family["base"] / "model.safetensors")
    assert {name: located.info.shape for name, located in layout.tensors.items()} == {
        name: array.shape for name, array in truth.items()
    }
    assert set(layout.files) == {path.name for path in family["base"].iterdir()}
    assert layout.config is not None
    assert layout.config["hidden_size"] == 32
    assert layout.metadata == {"format": "pt"}


def test_a_sharded_folder_has_the_same_tensors_as_the_whole_one(family: dict[str, Path]) -> None:
    whole, sharded = read_checkpoint(family["base"]), read_checkpoint(family["sharded"])
    assert len(sharded.headers) > 2
    assert {name: located.info.shape for name, located in sharded.tensors.items()} == {
        name: located.info.shape for name, located in whole.tensors.items()
    }
    for name, located in sharded.tensors.items():
        content = (family["sharded"] / located.file).read_bytes()[located.info.begin : located.info.end]
        info = whole.tensors[name].info
        assert content == (family["base"] / "model.safetensors").read_bytes()[info.begin : info.end]


def test_one_file_is_a_checkpoint(checkpoint: Path) -> None:
    layout = read_checkpoint(checkpoint / "model.safetensors")
    assert (layout.root, layout.files, list(layout.tensors)) == (checkpoint, ("model.safetensors",), ["w"])


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(InvalidCheckpoint, match=shard.name):
        read_checkpoint(sharded)


def edit_index(root: Path, edit: Callable[[dict[str, str]], object]) -> None:
    path = root / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index["weight_map"])
    path.write_text(json.dumps(index))


def test_a_tensor_that_the_index_names_and_no_shard_holds_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0].name
    edit_index(sharded, lambda weight_map: weight_map.update({"model.ghost.weight": shard}))
    with pytest.raises(InvalidCheckpoint, match=r"model\.ghost\.weight"):
        read_checkpoint(sharded)


def test_a_tensor_that_the_index_does_not_name_is_named(sharded: Path) -> None:
    edit_index(sharded, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(InvalidCheckpoint, match=r"model\.norm\.weight"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a\\b.safetensors", "..", 7])
def test_a_shard_outside_of_the_folder_is_refused(sharded: Path, shard: object) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({"model.norm.weight": shard}))  # type: ignore[dict-item]
    with pytest.raises((UnsafeFile, InvalidCheckpoint)):
        read_checkpoint(sharded)


def test_two_weight_files_without_an_index_are_refused(checkpoint: Path) -> None:
    save_file({"v": np.zeros(1, "f4")}, checkpoint / "other.safetensors")
    with pytest.raises(InvalidCheckpoint, match="it holds 2"):
        read_checkpoint(checkpoint)


def test_weights_that_no_index_names_are_refused(sharded: Path) -> None:
    save_file({"v": np.zeros(1, "f4")}, sharded / "consolidated.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"consolidated\.safetensors"):
        read_checkpoint(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidCheckpoint, match="it holds no"):
        read_checkpoint(tmp_path)
    with pytest.raises(SourceNotFound):
        read_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "model.PTH", "last.ckpt", "x.pkl", "modeling_x.py", "x.so", "deep/er/x.bin",
     "x.h5", "x.gguf", "noextension"],
)  # fmt: skip
def test_files_that_may_hold_code_are_refused_by_name(checkpoint: Path, name: str) -> None:
    (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
    (checkpoint / name).write_bytes(b"x")
    with pytest.raises(UnsafeFile, match=f"{name}.* is refused"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"auto_map": {"AutoModel": "evil.Model"}}'),
        ("config.json", '{"text_config": [{"deep": {"auto_map": {}}}]}'),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
        ("generation_config.json", '{"trust_remote_code": true}'),
        ("config.json", '{"_attn_implementation": "evil/kernel"}'),
    ],
)
def test_a_configuration_that_asks_for_code_is_refused(checkpoint: Path, file: str, content: str) -> None:
    (checkpoint / file).write_text(content)
    with pytest.raises(UnsafeFile, match=file):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_configuration_that_is_not_a_json_object_is_refused(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "config.json").write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=r"config\.json"):
        read_checkpoint(checkpoint)


def test_hidden_files_locks_and_pictures_stay_where_they_are(checkpoint: Path) -> None:
    for name in (".git/objects/x.bin", ".gitattributes", ".cache/x.lock", "model.lock", "plot.png"):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(b"x")
    assert read_checkpoint(checkpoint).files == ("config.json", "model.safetensors")


def test_documents_and_tokenizers_are_taken(checkpoint: Path) -> None:
    names = ["README.md", "LICENSE", "tokenizer.model", "merges.txt", "chat_template.jinja", "1_Pooling/config.json"]
    for name in names:
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("{}")
    assert set(read_checkpoint(checkpoint).files) == {*names, "config.json", "model.safetensors"}


def test_a_link_that_leads_out_of_the_folder_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (checkpoint / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafeFile, match=r"notes\.txt"):
        read_checkpoint(checkpoint)
    assert "notes.txt" in read_checkpoint(checkpoint, links_to=tmp_path).files


@pytest.mark.parametrize("target", ["absent.txt", "notes.txt", "."])
def test_a_link_that_leads_to_no_file_is_refused(checkpoint: Path, target: str) -> None:
    (checkpoint / "notes.txt").symlink_to(target)
    with pytest.raises(UnsafeFile, match=r"notes\.txt"):
        read_checkpoint(checkpoint)


def test_a_link_inside_the_folder_is_followed(checkpoint: Path) -> None:
    (checkpoint / "copy.json").symlink_to("config.json")
    assert "copy.json" in read_checkpoint(checkpoint).files


@pytest.mark.parametrize(
    "names", [("A.txt", "a.txt"), ("\u00e9.txt", "e\u0301.txt"), ("b\\c.txt",), ("new\nline.txt",), ("a\u202eb.txt",)]
)
def test_a_name_that_another_system_would_read_differently_is_refused(checkpoint: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (checkpoint / name).write_text("x")
    with pytest.raises(UnsafeFile):
        read_checkpoint(checkpoint)


def test_a_name_that_is_not_utf8_is_refused(checkpoint: Path) -> None:
    Path(os.fsdecode(bytes(checkpoint) + b"/\xff.txt")).write_text("x")
    with pytest.raises(UnsafeFile, match="UTF-8") as caught:
        read_checkpoint(checkpoint)
    str(caught.value).encode()


def test_too_many_files_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_FILES", 1)
    with pytest.raises(TooLarge, match="files"):
        read_checkpoint(checkpoint)


def test_a_fifo_is_refused_and_not_opened(checkpoint: Path) -> None:
    os.mkfifo(checkpoint / "notes.txt")
    with pytest.raises(GraftworkError, match=r"notes\.txt"):
        read_checkpoint(checkpoint)
