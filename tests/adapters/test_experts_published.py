"""Checkpoints as the authors' code and PEFT save them, made expert sets."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PolyConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from graftwork.adapters.experts.expert_set import ExpertSet, load_expert_set
from graftwork.adapters.experts.lowering import lower_experts
from graftwork.adapters.experts.published import read_published
from graftwork.errors import InvalidExpertSet

INNER, OUT = 8, 6
MODULE = "model.layers.0.self_attn.q_proj"
FOLDER = Path("converted")


def write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def converted(source: Path) -> ExpertSet:
    """The checkpoint as an expert set that went through its two files."""
    folder = source / FOLDER
    folder.mkdir()
    read_published(source).write(folder)
    return load_expert_set(folder, lambda digest: pytest.fail(digest))


def change(experts: ExpertSet, module: str, x: torch.Tensor, task: str | None = None) -> torch.Tensor:
    lowered = lower_experts(experts, task, torch.float32, torch.device("cpu"))
    pair, gate = lowered.low_rank[module], lowered.gates.get(module)
    hidden = x @ pair.a.t()
    return (hidden if gate is None else hidden * gate(x)) @ pair.b


def test_smora(tmp_path: Path) -> None:
    """The forward of the authors' layer, in float64."""
    rank, partition, top, alpha = 6, 2, 3, 12
    a, b = torch.randn(rank, INNER), torch.randn(OUT, rank)
    router, biases = torch.randn(rank // partition, INNER), 0.1 * torch.randn(rank)
    tensors = {
        f"{MODULE}.lora_A.weight": a,
        f"{MODULE}.lora_B.weight": b,
        f"{MODULE}.lora_router.weight": router,
        f"{MODULE}.lora_biases": biases,
    }
    config = {"peft_type": "SRMOLE", "r": rank, "activate_r": top, "rank_partition": partition, "lora_alpha": alpha}
    experts = converted(write(tmp_path, config, tensors))
    x = torch.randn(5, INNER)
    logits = torch.sigmoid(x.double() @ router.double().t()).repeat_interleave(partition, dim=-1) + biases
    values, indices = logits.topk(top, dim=-1)
    gates = torch.zeros_like(logits).scatter(-1, indices, values)
    gates = gates / gates.sum(dim=-1, keepdim=True) * top
    expected = (gates * (x.double() @ a.double().t())) @ b.double().t() * (alpha / top)
    torch.testing.assert_close(change(experts, MODULE, x).double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["lora_{}_{}", "lora_{}.default_{}"])
def test_mola(tmp_path: Path, name: str) -> None:
    """Layers with 2 and with 3 experts, in float64."""
    rank, alpha, counts = 2, 8, {MODULE: 2, MODULE.replace("0", "1"): 3}
    tensors = {}
    for module, count in counts.items():
        tensors[f"{module}.router.router.weight"] = torch.randn(count, INNER)
        for expert in range(count):
            tensors[f"{module}.{name.format('A', expert)}.weight"] = torch.randn(rank, INNER)
            tensors[f"{module}.{name.format('B', expert)}.weight"] = torch.randn(OUT, rank)
    config = {"r": [rank, rank], "lora_alpha": alpha, "number_experts": [2, 3], "top_k": [2, 2]}
    experts = converted(write(tmp_path, config, tensors))
    x = torch.randn(5, INNER)
    for module, count in counts.items():
        weights = torch.softmax(x.double() @ tensors[f"{module}.router.router.weight"].double().t(), dim=-1)
        values, indices = weights.topk(2, dim=-1)
        gates = torch.zeros_like(weights).scatter(-1, indices, values / values.sum(dim=-1, keepdim=True))
        expected = torch.zeros(5, OUT, dtype=torch.float64)
        for expert in range(count):
            a, b = (tensors[f"{module}.{name.format(side, expert)}.weight"].double() for side in "AB")
            expected += gates[:, expert : expert + 1] * (x.double() @ a.t() @ b.t()) * (alpha / rank)
        torch.testing.assert_close(change(experts, module, x).double(), expected, rtol=1e-5, atol=1e-4)


def test_poly_as_peft_saves_it(tmp_path: Path) -> None:
    """The logits of a PEFT model with two heads, task by task."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3)
    poly = PolyConfig(
        r=2, n_tasks=3, n_skills=3, n_splits=2, target_modules=["q_proj", "down_proj"], init_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model: Any = get_peft_model(AutoModelForCausalLM.from_config(config), poly).eval()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if "module_logits" in name:
            parameter.data.normal_()
    model.save_pretrained(str(tmp_path))
    experts = converted(tmp_path)
    assert experts.router.tasks == ["0", "1", "2"]
    layers = {name.removeprefix("base_model.model."): layer for name, layer in model.named_modules()}
    for module in experts.modules:
        layer = layers[module]
        x = torch.randn(4, layer.in_features)
        for task in range(3):
            expected = layer(x[None], task_ids=torch.tensor([task]))[0] - layer.base_layer(x)
            found = change(experts, module, x, str(task))
            np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"more": torch.zeros(1)}, "'more' has no place in SMoRA"),
        ({f"{MODULE}.lora_B.weight": None}, f"{MODULE} has no lora_B"),
        ({f"{MODULE}.lora_router.weight": None}, "neither SMoRA, MoLA nor Poly"),
    ],
)
def test_what_is_none_of_them_is_refused(tmp_path: Path, change: dict[str, torch.Tensor | None], told: str) -> None:
    tensors = {f"{MODULE}.{part}.weight": torch.zeros(2, 2) for part in ("lora_A", "lora_B", "lora_router")}
    merged = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    with pytest.raises(InvalidExpertSet, match=told):
        read_published(write(tmp_path, {"activate_r": 1, "lora_alpha": 1}, merged))
    with pytest.raises(InvalidExpertSet, match=r"activate_r of its adapter_config\.json is None"):
        read_published(write(tmp_path, {}, tensors))
