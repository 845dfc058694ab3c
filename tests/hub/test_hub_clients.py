"""Real clients, in processes of their own with HF_ENDPOINT set: huggingface_hub, transformers, PEFT."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.hub.conftest import Hub

SCENARIO = Path(__file__).parents[2] / "benchmarks" / "service" / "hub_scenario.py"
LIBRARIES = """
import sys
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("tiny/base")
tokenizer = AutoTokenizer.from_pretrained("tiny/base", revision="v1")
tokenizer.push_to_hub("acme/copy")
api = HfApi()
assert api.list_repo_refs("acme/copy").tags == []
model.push_to_hub("acme/copy")
assert [tag.name for tag in api.list_repo_refs("acme/copy").tags] == ["v1"]
AutoTokenizer.from_pretrained("acme/copy")
torch.manual_seed(0)
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
adapted.push_to_hub("acme/lora", private=True)
prompt = torch.tensor([[3, 4, 5]])
wanted = adapted(prompt).logits
base = AutoModelForCausalLM.from_pretrained("acme/copy", revision=api.model_info("acme/copy").sha)
loaded = PeftModel.from_pretrained(base, "acme/lora")
assert torch.equal(loaded(prompt).logits, wanted)
"""

OF_A_TRAINER = ("training_args.bin", "optimizer.pt", "rng_state.pth", "checkpoint-5/model.safetensors", "runs/events")
TRAINED = """
import sys
from huggingface_hub import HfApi

api = HfApi()
api.create_repo("acme/trained")
api.upload_folder(repo_id="acme/trained", folder_path=sys.argv[1])
"""


def run(url: str, home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    own = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], env=kept | own | environment, capture_output=True, text=True, check=False
    )


def scenario(hub: Hub, home: Path, namespace: str, **environment: str) -> tuple[int, str]:
    folders = [str(hub.family.base), str(hub.family.adapters["adapter0"])]
    done = run(hub.url, home, str(SCENARIO), *folders, namespace, **environment)
    return done.returncode, done.stdout + done.stderr


def test_the_scenario_of_the_benchmark(hub: Hub, tmp_path: Path) -> None:
    status, said = scenario(hub, tmp_path, "lfs", HF_HUB_DISABLE_XET="1")
    assert status == 0, said
    assert hub.registry.catalog.resolve("lfs/lora@v1").base == hub.registry.catalog.resolve("lfs/base").digest
    files = {entry.path: entry.size for entry in hub.registry.catalog.resolve("lfs/base").files}
    assert files == {path.name: path.stat().st_size for path in hub.family.base.iterdir()}


def test_a_client_with_xet_is_told_what_to_set(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    status, said = scenario(hub, tmp_path, "xet", HF_HUB_DISABLE_XET="")
    assert status == 1
    assert "set-HF_HUB_DISABLE_XET=1-and-push-again" in said
    advice = hub.client().get("/api/models/tiny/base/xet-write-token/main", follow_redirects=True)
    assert advice.status_code == 400
    assert "set HF_HUB_DISABLE_XET=1" in advice.json()["error"]


def test_transformers_and_peft_load_and_push(hub: Hub, tmp_path: Path) -> None:
    done = run(hub.url, tmp_path, "-c", LIBRARIES, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr[-3000:]
    version = hub.registry.catalog.resolve("acme/lora")
    assert version.base == hub.registry.catalog.resolve("tiny/base").digest
    assert hub.registry.catalog.is_private(version.name)
    assert "model.safetensors" in {file.path for file in hub.registry.catalog.resolve("acme/copy").files}


def test_what_a_trainer_leaves_beside_a_model_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    folder = shutil.copytree(hub.family.base, tmp_path / "trained")
    for name in OF_A_TRAINER:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80\x02}q\x00.")
    done = run(hub.url, tmp_path / "cache", "-c", TRAINED, str(folder), HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr[-3000:]
    version = hub.registry.catalog.resolve("acme/trained")
    assert version.digest == hub.registry.catalog.resolve("tiny/base").digest
