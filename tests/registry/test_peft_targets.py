"""Which tensors PEFT passes over, by what a configuration names: they are refused, and the others are read."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.peft import read_adapter

PREFIX = "base_model.model."
SIZES = {"q_proj": (32, 32), "o_proj": (32, 32), "up_proj": (48, 32), "down_proj": (32, 48)}
FORMATS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 2, "lora_alpha": 4},
    "ADALORA": {"init_r": 2, "lora_alpha": 4, "total_step": 10},
    "IA3": {"feedforward_modules": []},
    "VERA": {"r": 2},
}
ATTENTION = ["q_proj", "o_proj"]
ALL = [*ATTENTION, "up_proj", "down_proj"]


def layer(number: int, name: str) -> str:
    return f"model.layers.{number}.{'self_attn' if name in ATTENTION else 'mlp'}.{name}"


def tensors_of(kind: str, modules: Iterable[str]) -> dict[str, np.ndarray]:
    """What PEFT saves for linear layers in a format."""
    found: dict[str, tuple[int, ...]] = {}
    for module in modules:
        out, inner = SIZES.get(module.rpartition(".")[2], (64, 32))
        roles: dict[str, dict[str, tuple[int, ...]]] = {
            "LORA": {f"{module}.lora_A.weight": (2, inner), f"{module}.lora_B.weight": (out, 2)},
            "ADALORA": {f"{module}.lora_A": (2, inner), f"{module}.lora_B": (out, 2), f"{module}.lora_E": (2, 1)},
            "IA3": {f"{module}.ia3_l": (out, 1)},
            "VERA": {f"{module}.vera_lambda_b": (out,), f"{module}.vera_lambda_d": (2,)},
        }
        found |= roles[kind]
    named = {PREFIX + name: shape for name, shape in found.items()}
    if kind == "VERA":
        named |= {"base_model.vera_A": (2, 48), "base_model.vera_B": (48, 2)}
    return {name: np.ones(shape, "f4") for name, shape in named.items()}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def passed_over(base: Path, folder: Path) -> set[str]:
    """The tensors that PEFT does not load."""
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict
    from transformers import LlamaForCausalLM

    with warnings.catch_warnings(action="ignore"):
        config: Any = PeftConfig.from_pretrained(str(folder))
        model: Any = get_peft_model(LlamaForCausalLM.from_pretrained(base), config)
        tensors = load_peft_weights(str(folder), device="cpu")
        loaded: Any = set_peft_model_state_dict(model, tensors, ignore_mismatched_sizes=True)
    return set(loaded.unexpected_keys)


OPTIONS: list[dict[str, Any]] = [
    {"target_modules": ATTENTION},
    {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]},
    {"target_modules": ["proj", "q_proj", "nothing_of_it"]},
    {"target_modules": r".*layers\.[12]\..*(q|up)_proj"},
    {"target_modules": r"(?:.*?(?:self_attn).*?(?:o_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.(?:(?:up_proj)))"},
    {"target_modules": r"^(?!.*self_attn).*(?:q_proj|up_proj|down_proj).*"},
    {"target_modules": ALL, "exclude_modules": ["o_proj", "layers.1.mlp.up_proj", "_proj"]},
    {"target_modules": ALL, "exclude_modules": r".*\.1\..*"},
    {"target_modules": ALL, "layers_to_transform": 1},
    {"target_modules": ALL, "layers_to_transform": [0, 7], "layers_pattern": "layers"},
    {"target_modules": [*ATTENTION, "model.layers.0.mlp.up_proj"], "layers_to_transform": [1]},
    {"target_modules": ATTENTION, "layers_to_transform": [], "exclude_modules": []},
    {"target_modules": ALL, "layers_to_transform": [1], "layers_pattern": ["blocks", "la.*"]},
    {"target_modules": "all-linear"},
    {"target_modules": "ALL-linear", "exclude_modules": ["up_proj"]},
]
UNKNOWN = {"IA3": {"layers_to_transform"}, "VERA": {"exclude_modules"}}
"""What PEFT does not read in a format; it is refused as such."""
CASES = [(kind, options) for kind in FORMATS for options in OPTIONS if not UNKNOWN.get(kind, set()) & options.keys()]


@pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
def test_what_peft_passes_over_is_refused_and_the_rest_is_read(
    kind: str, options: dict[str, Any], family: dict[str, Path], tmp_path: Path
) -> None:
    config = {"peft_type": kind, "task_type": "CAUSAL_LM", **FORMATS[kind], **options}
    linear = [layer(number, name) for number in range(2) for name in ALL] + (["lm_head"] if kind == "LORA" else [])
    tensors = tensors_of(kind, linear)
    left_out = passed_over(family["base"], write(tmp_path / "all", config, tensors))
    assert left_out < tensors.keys()
    if left_out:
        with pytest.raises(InvalidAdapter, match="PEFT would not load its") as caught:
            read_adapter(tmp_path / "all")
        assert any(name in str(caught.value) for name in left_out)
        for name in tensors.keys() - left_out:
            assert f"'{name}'" not in str(caught.value)
    rest = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    assert read_adapter(write(tmp_path / "rest", config, rest)).header.tensors.keys() == rest.keys()


Q, OUT = layer(0, "q_proj"), layer(0, "o_proj")
SAVED = {f"{PREFIX}{layer(number, 'o_proj')}.weight": np.ones((32, 32), "f4") for number in range(2)}


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({}, {f"{Q}.weight": (32, 32)}, r"call.*q_proj.base_layer.weight"),
        (
            {},
            {f"{OUT}.base_layer.weight": (32, 32)},
            r"o_proj.base_layer.weight', which its target_modules \['q_proj'\]",
        ),
        ({}, {f"{Q}.base_layer.weight": (32, 32)}, None),
        ({}, {f"{OUT}.weight": (32, 32), "model.norm.weight": (32,)}, None),
        ({}, {f"{Q}.lora_B.bias": (32,)}, "lora_B.bias'.*does not say lora_bias"),
        (
            {"target_modules": None},
            {f"{OUT}.lora_A.weight": (2, 32), f"{OUT}.lora_B.weight": (32, 2)},
            "which its target_modules None leaves out",
        ),
        (
            {"modules_to_save": ["o_proj"], "target_modules": ATTENTION},
            {f"{OUT}.lora_A.weight": (2, 32), f"{OUT}.lora_B.weight": (32, 2)},
            r"o_proj.lora_A.weight', .*lora_B.weight', which its modules_to_save \['o_proj'\] leaves out",
        ),
        ({"modules_to_save": ["o_proj"]}, {}, None),
    ],
)
def test_a_parameter_of_the_base_has_the_name_that_peft_looks_for(
    options: dict[str, Any],
    more: dict[str, tuple[int, ...]],
    message: str | None,
    family: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **options}
    tensors = tensors_of("LORA", [Q]) | {PREFIX + name: np.ones(shape, "f4") for name, shape in more.items()}
    tensors |= SAVED if "modules_to_save" in options else {}
    folder = write(tmp_path / "adapter", config, tensors)
    assert bool(passed_over(family["base"], folder)) == (message is not None)
    if message is None:
        assert read_adapter(folder).header.tensors.keys() == tensors.keys()
    else:
        with pytest.raises(InvalidAdapter, match=message):
            read_adapter(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ".*", "layers_to_transform": [1]}, "'.*', with which layers_to_transform does not go"),
        ({"layers_pattern": ["layers"]}, "layers_pattern.*without layers_to_transform"),
        ({"target_modules": "*q_proj"}, r"target_modules \*q_proj is not accepted"),
    ],
)
def test_what_peft_does_not_load_at_all_is_refused(
    options: dict[str, Any], message: str, family: dict[str, Path], tmp_path: Path
) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **options}
    folder = write(tmp_path / "adapter", config, tensors_of("LORA", [Q]))
    with pytest.raises((ValueError, re.error)):
        passed_over(family["base"], folder)
    with pytest.raises(InvalidAdapter, match=message):
        read_adapter(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "(?:" + "(a|a?)+" * 8 + ")+$" + "q_proj"},
        {"target_modules": "((((q{1000}){1000}){1000}){1000})"},
        {"target_modules": "(" * 2000 + ")" * 2000},
        {"exclude_modules": ["k"] * 3 + [["q"]]},
        {"target_modules": ["q_proj"], "layers_to_transform": ["1"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["(l|la|a)*" * 20 + "!"]},
        {"target_modules": {"q_proj": 1}},
    ],
    ids=lambda options: str(options)[:50],
)
def test_hostile_names_are_refused_and_not_matched_for_ever(options: dict[str, Any], tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **options}
    with pytest.raises(InvalidAdapter, match=r"target_modules|exclude_modules|layers"):
        read_adapter(write(tmp_path / "adapter", config, tensors_of("LORA", [Q])))
