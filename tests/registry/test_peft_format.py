from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graftwork.errors import IncompatibleAdapter, InvalidAdapter, UnsafeFile
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import AdapterLayout, check_against_base, parse_lora_config, read_adapter

WEIGHTS = "adapter_model.safetensors"
Q = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]


def base_shapes(family: dict[str, Path]) -> dict[str, Shape]:
    return {name: Shape(located.info.shape) for name, located in read_checkpoint(family["base"]).tensors.items()}


def check(adapter: AdapterLayout, base: Mapping[str, Shape]) -> None:
    check_against_base(adapter, base, adapter_name="ns/adapter", base_name="ns/base@v1")


def edit_config(root: Path, **options: object) -> Path:
    path = root / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    return path


def edit_weights(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(root / WEIGHTS)
    edit(tensors)
    save_file(tensors, root / WEIGHTS)


@pytest.mark.parametrize("which", ["adapter", "patterned", "rslora"])
def test_ranks_and_scales_are_those_that_peft_computes(family: dict[str, Path], which: str) -> None:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import LlamaForCausalLM

    folder = family[which]
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(family["base"]), folder)
    truth = {
        name.removeprefix("base_model.model."): (layer.r["default"], layer.scaling["default"])
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    layout = read_adapter(folder)
    assert {name: (module.rank, module.scale) for name, module in layout.modules.items()} == truth
    assert len(truth) == 4
    check(layout, base_shapes(family))


def test_every_tensor_of_an_adapter_is_accounted_for(family: dict[str, Path]) -> None:
    layout = read_adapter(family["adapter"])
    named = {name for module in layout.modules.values() for name in (module.a, module.b)}
    assert named == set(layout.header.tensors) == set(load_file(family["adapter"] / WEIGHTS))
    assert (layout.modules[Q].in_features, layout.modules[Q].out_features) == (32, 32)
    assert layout.config.base_model_name_or_path == str(family["base"])


def test_patterns_match_as_peft_matches_them(tmp_path: Path, family: dict[str, Path]) -> None:
    from peft.utils.other import get_pattern_key

    shutil.copy(family["adapter"] / "adapter_config.json", tmp_path)
    patterns = {"q_proj": 1, r"layers\.1\..*": 2, "proj": 3, r"model\.layers\.[02].self_attn.v_proj": 5, "^k_proj": 6}
    config = parse_lora_config(edit_config(tmp_path, rank_pattern=patterns))
    for layer in range(3):
        for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.k_proj", "mlp.down_proj", "proj"):
            module = f"model.layers.{layer}.{name}"
            assert config.rank_for(module) == patterns.get(get_pattern_key(list(patterns), module), config.r)
    assert config.rank_for("k_proj") == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": None}, "peft_type"),
        ({"peft_type": "LOTR"}, "peft_type is 'LOTR'"),
        ({"graftwork_type": "LORA"}, "graftwork_type is 'LORA'.*LOTR, HYDRA or S2FT"),
        ({"peft_type": "ADALORA", "use_dora": True}, "use_dora"),
        ({"peft_type": "ADALORA", "rank_pattern": {"q_proj": 3}}, "rank_pattern.*list of true and false"),
        ({"use_dora": True, "lora_bias": True}, "use_dora and its lora_bias"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save"),
        ({"init_lora_weights": "corda"}, "corda.*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "loftq"}, "loftq.*merge it into the base it was trained on"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"some_option_of_next_year": 1}, "some_option_of_next_year"),
        ({"r": 0}, "'?r'? is 0|its r is 0"),
        ({"r": True}, "its r is True"),
        ({"r": "8"}, "its r is '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"rank_pattern": {"(": 4}}, "pattern"),
        ({"rank_pattern": {"(a+)+": 4}}, "pattern"),
        ({"rank_pattern": {"(?i)q_proj": 4}}, "pattern"),
    ],
)
def test_an_option_that_is_not_known_is_refused_by_name(
    adapter: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidAdapter, match=message):
        parse_lora_config(edit_config(adapter, **options))


def test_an_adapter_that_is_no_product_of_two_factors_is_read_but_not_merged(family: dict[str, Path]) -> None:
    layout = read_adapter(family["dora"])
    check(layout, base_shapes(family))
    assert layout.kinds == ("DoRA",)
    assert layout.ranks == dict.fromkeys(layout.parts, 4)
    with pytest.raises(InvalidAdapter, match=r"lora_magnitude_vector' is DoRA.*accepted here are adapters of LoRA"):
        _ = layout.modules


def test_a_trained_bias_is_named_where_products_are_asked_for(adapter: Path) -> None:
    edit_config(adapter, lora_bias=True)
    tensors = load_file(adapter / WEIGHTS)
    save_file(tensors | {f"base_model.model.{Q}.lora_B.bias": np.zeros(32, np.float32)}, adapter / WEIGHTS)
    with pytest.raises(InvalidAdapter, match=r"q_proj\.lora_B\.bias' is a trained bias, which can be served"):
        _ = read_adapter(adapter).modules


def test_a_pattern_that_backtracks_without_end_costs_no_time(adapter: Path) -> None:
    started = time.monotonic()
    for pattern in ("(a|a)+$", "([a-z]+)*", "a*a*a*a*a*a*b", "(?:x+x+)+y", "a" * 300):
        with pytest.raises(InvalidAdapter, match="pattern"):
            parse_lora_config(edit_config(adapter, rank_pattern={pattern: 4}))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["adapter_config.json", WEIGHTS])
def test_a_missing_file_is_named(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(InvalidAdapter, match=name):
        read_adapter(adapter)


def test_an_adapter_saved_as_a_pickle_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UnsafeFile, match=r"adapter_model\.bin"):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"base_model.model.{Q}.lora_A.default.weight", "is not named"),
        ("base_model.model.lm_head.gain", "is not named"),
        (f"{Q}.lora_A.weight", "is not named"),
        (f"base_model.model.{Q}.vera_lambda_b", "is not named"),
        (f"base_model.model.{Q}.ranknum", "is not named"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "4, 32|2 dimensions|DoRA"),
        (f"base_model.model.{Q}.lora_B.bias", "would not load its.*does not say lora_bias"),
        (f"base_model.model.{Q}.lora_N.weight", "NLoRA"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "has no lora_embedding_B"),
    ],
)
def test_a_tensor_that_is_no_factor_is_named(adapter: Path, name: str, message: str) -> None:
    edit_weights(adapter, lambda tensors: tensors.update({name: np.zeros((4, 32), "f4")}))
    with pytest.raises(InvalidAdapter, match=message) as caught:
        read_adapter(adapter)
    assert name in str(caught.value)


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_of_a_pair_is_refused(adapter: Path, side: str) -> None:
    edit_weights(adapter, lambda tensors: tensors.pop(f"base_model.model.{Q}.lora_{side}.weight"))
    with pytest.raises(InvalidAdapter, match=f"q_proj' has no lora_{side}"):
        read_adapter(adapter)


@pytest.mark.parametrize(
    ("side", "shape", "message"),
    [("A", (5, 32), "rank 5 and 4"), ("B", (32, 3), "rank 4 and 3"), ("A", (4, 32, 1), "factors")],
)
def test_a_rank_mismatch_is_refused(adapter: Path, side: str, shape: tuple[int, ...], message: str) -> None:
    name = f"base_model.model.{Q}.lora_{side}.weight"
    edit_weights(adapter, lambda tensors: tensors.update({name: np.zeros(shape, "f4")}))
    with pytest.raises(InvalidAdapter, match=message):
        read_adapter(adapter)


def test_an_integer_factor_is_refused(adapter: Path) -> None:
    name = f"base_model.model.{Q}.lora_A.weight"
    edit_weights(adapter, lambda tensors: tensors.update({name: np.zeros((4, 32), "i4")}))
    with pytest.raises(InvalidAdapter, match="I32"):
        read_adapter(adapter)


def test_an_adapter_for_another_base_is_refused_by_module(family: dict[str, Path]) -> None:
    layout, base = read_adapter(family["adapter"]), base_shapes(family)
    smaller = base | {f"{Q}.weight": Shape((16, 16))}
    with pytest.raises(IncompatibleAdapter, match=r"layers\.0\.self_attn\.q_proj.*\[16, 16\].*\[32, 32\]"):
        check(layout, smaller)
    del base[f"{Q}.weight"]
    with pytest.raises(IncompatibleAdapter, match=r"layers\.0\.self_attn\.q_proj.* does not have"):
        check(layout, base)


def test_a_tied_head_that_the_base_does_not_hold_is_named(adapter: Path, family: dict[str, Path]) -> None:
    head = {
        "base_model.model.lm_head.lora_A.weight": np.zeros((4, 32), "f4"),
        "base_model.model.lm_head.lora_B.weight": np.zeros((64, 4), "f4"),
    }
    edit_weights(adapter, lambda tensors: tensors.update(head))
    edit_config(adapter, target_modules=["q_proj", "down_proj", "lm_head"])
    layout, base = read_adapter(adapter), base_shapes(family)
    check(layout, base)
    del base["lm_head.weight"]
    with pytest.raises(IncompatibleAdapter, match=r"'lm_head'.* tied"):
        check(layout, base)


def test_the_weights_of_a_conv1d_base_are_transposed(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(model, lora).save_pretrained(str(tmp_path / "adapter"))
    base = {name: Shape(at.info.shape) for name, at in read_checkpoint(tmp_path / "base").tensors.items()}
    layout = read_adapter(tmp_path / "adapter")
    module = layout.modules["transformer.h.0.attn.c_attn"]
    assert (module.in_features, module.out_features) == (16, 48)
    check(layout, base)
    edit_config(tmp_path / "adapter", fan_in_fan_out=False)
    with pytest.raises(IncompatibleAdapter, match="c_attn"):
        check(read_adapter(tmp_path / "adapter"), base)
