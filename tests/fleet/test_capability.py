"""What vLLM is trusted with, and rsLoRA for engines that pass over it."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from torch import nn

from graftwork.adapters.fleet.capability import refusal
from graftwork.adapters.fleet.rslora import with_plain_scaling

FACTORS = ["base_model.model.up.lora_A.weight", "base_model.model.up.lora_B.weight"]


def saved(folder: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The configuration and tensor names that PEFT writes for an adapter of a small model."""
    model = nn.ModuleDict({"up": nn.Linear(8, 8), "down": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["up", "down"], **options})
    get_peft_model(model, config).save_pretrained(str(folder))
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return json.loads((folder / "adapter_config.json").read_text()), list(file.keys())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"up": 8}, "alpha_pattern": {"down": 32}},
        {"init_lora_weights": "orthogonal"},
        {"lora_dropout": 0.1},
    ],
)
def test_what_vllm_computes_as_peft_does_is_served(tmp_path: Path, options: dict[str, Any]) -> None:
    config, tensors = saved(tmp_path, **options)
    assert refusal(config, tensors, max_rank=16) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "trained biases"),
        ({"modules_to_save": ["head"]}, r"modules_to_save: \['head'\]"),
        ({"r": 32}, "its rank is 32, and the engine takes ranks up to 16"),
        ({"rank_pattern": {"up": 64}}, "its rank is 64"),
    ],
)
def test_what_vllm_refuses_or_would_get_wrong_is_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    config, tensors = saved(tmp_path, **options)
    told = refusal(config, tensors, max_rank=16)
    assert told is not None
    assert re.search(reason, told)


def test_an_option_or_a_tensor_that_nobody_knows_is_a_reason() -> None:
    plain = {"peft_type": "LORA", "r": 8}
    assert "its option use_new ('x')" in str(refusal({**plain, "use_new": "x"}, FACTORS, max_rank=16))
    assert "'base_model.model.up.lora_C'" in str(refusal(plain, ["base_model.model.up.lora_C"], max_rank=16))
    assert "lora_bias" in str(refusal({**plain, "lora_bias": True}, FACTORS, max_rank=16))
    assert "'IA3'" in str(refusal({"peft_type": "IA3"}, [], max_rank=16))
    assert "changes the base" in str(refusal({**plain, "init_lora_weights": "pissa"}, FACTORS, max_rank=16))


@pytest.mark.parametrize("options", [{}, {"rank_pattern": {"up": 16}, "alpha_pattern": {"down": 6}}])
def test_rslora_without_rslora_is_the_same_adapter(tmp_path: Path, options: dict[str, Any]) -> None:
    config, _ = saved(tmp_path, use_rslora=True, **options)
    ranks = {"up": 16 if options else 4, "down": 4}
    plain = with_plain_scaling(config, ranks)
    assert plain["use_rslora"] is False
    wanted, got = scalings(config), scalings(plain)
    assert wanted.keys() == got.keys()
    for module, scaling in wanted.items():
        assert math.isclose(scaling, got[module], rel_tol=1e-12)


def scalings(config: dict[str, Any]) -> dict[str, float]:
    """The factor that PEFT gives to each module."""
    model = nn.ModuleDict({"up": nn.Linear(8, 8), "down": nn.Linear(8, 8)})
    with torch.no_grad():
        adapted: Any = get_peft_model(model, LoraConfig(**config))
    return {
        name: float(layer.scaling["default"]) for name, layer in adapted.named_modules() if hasattr(layer, "scaling")
    }
