from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graftwork.testing.family import Family
from graftwork.testing.formats import llama_formats, write_peft

if TYPE_CHECKING:
    from tests.cli.conftest import Graft


@pytest.fixture
def nearly(tmp_path: Path, family: Family) -> Path:
    """`adapter0` with a little noise."""
    folder = Path(shutil.copytree(family.adapters["adapter0"], tmp_path / "nearly"))
    weights = folder / "adapter_model.safetensors"
    random = np.random.default_rng(0)
    tensors = {
        name: tensor + 0.01 * np.abs(tensor).mean() * random.standard_normal(tensor.shape).astype("f4")
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights)
    return folder


def test_an_adapter_of_the_registry_is_told_with_its_near_duplicates(graft: Graft, nearly: Path) -> None:
    assert graft("import", nearly, "--name", "tiny/copy", "--base", "tiny/base").code == 0
    told = graft("adapters", "inspect", "tiny/a@prod", "--json").json
    assert told["formats"] == ["LoRA"]
    assert told["rank"] == 4
    assert [layer["layer"] for layer in told["layers"]] == [0, 1]
    assert all(len(module["singular_values"]) == module["rank"] == 4 for module in told["modules"])
    assert told["energy"]["4"] == pytest.approx(1)
    assert told["energy"]["1"] < told["energy"]["2"] < 1
    assert [other["ref"].partition("@")[0] for other in told["near_duplicates"]] == ["tiny/copy"]
    assert 0.99 < told["near_duplicates"][0]["cosine"] < 1


def test_the_same_content_under_another_name_is_a_duplicate(graft: Graft, family: Family) -> None:
    assert graft("import", family.adapters["adapter0"], "--name", "tiny/same", "--base", "tiny/base").code == 0
    [other] = graft("adapters", "inspect", "tiny/a@prod", "--json").json["near_duplicates"]
    assert other["ref"].startswith("tiny/same@")
    assert other["cosine"] == pytest.approx(1)


def test_every_other_version_is_compared(graft: Graft) -> None:
    told = graft("adapters", "inspect", "tiny/a@prod", "--similar", "0", "--json").json
    refs = [other["ref"] for other in told["near_duplicates"]]
    assert all(ref.startswith("tiny/a@") for ref in refs)
    assert graft("adapters", "inspect", "tiny/a@prod", "--similar", "1", "--json").json["near_duplicates"] == []


def test_tables_are_for_people(graft: Graft, nearly: Path) -> None:
    told = graft("adapters", "inspect", nearly, "--modules")
    assert told.code == 0
    assert "model.layers.0.self_attn.q_proj" in told.stdout
    assert "energy kept when cut to" in told.stdout
    assert "no other adapter" not in told.stderr, "a folder is compared with none"
    layers = graft("adapters", "inspect", "tiny/a")
    assert {"tiny/a@v2", "tiny/base@v1", "effective"} <= set(layers.stdout.split())
    assert "no other adapter of this base" in layers.stderr


def test_what_is_not_known_is_not_said_to_be_nothing(graft: Graft, family: Family, tmp_path: Path) -> None:
    saved = write_peft(family.base, tmp_path / "saved", llama_formats()["saved"], seed=1)
    told = graft("adapters", "inspect", saved, "--json").json
    assert [layer["norm"] is None for layer in told["layers"]] == [False, False, True]
    assert told["norm"] > 0
    assert "not part of the norms: 4 modules (trained weight)" in " ".join(
        graft("adapters", "inspect", saved).stderr.split()
    )
    ia3 = write_peft(family.base, tmp_path / "ia3", llama_formats()["ia3"], seed=1)
    assert graft("adapters", "inspect", ia3, "--json").json["norm"] is None
    assert "0" not in graft("adapters", "inspect", ia3).stdout.partition("norm")[2].split("\n")[0]


def test_what_is_no_adapter_is_refused(graft: Graft) -> None:
    told = graft("adapters", "inspect", "tiny/base")
    assert told.code == 2
    assert "is a base, and not an adapter" in told.stderr
    assert graft("adapters", "inspect", "tiny/nothing").code == 3
    assert "expected a folder with an adapter_config.json" in graft("adapters", "inspect", "./nope").stderr
