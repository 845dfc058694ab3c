"""Formats beside plain LoRA: what is refused, by the name of the tensor or the option at fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import FourierFTConfig, LoHaConfig, LoKrConfig, get_peft_model, save_as_lora
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from graftwork.adapters.variants.lora import load_lora
from graftwork.errors import IncompatibleAdapter, InvalidAdapter
from graftwork.registry.formats.adapters.kinds import Kind
from graftwork.registry.formats.checkpoint import read_checkpoint
from graftwork.registry.formats.peft import AdapterLayout, check_against_base, read_adapter

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
EMBED = "model.embed_tokens"
Tensors = dict[str, Any]
Writer = Callable[[dict[str, object], Tensors], Path]


@dataclass(frozen=True)
class Shape:
    shape: tuple[int, ...]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """A folder of a configuration and tensors, by module and role; a shape stands for zeros."""

    def written(config: dict[str, object], tensors: Tensors) -> Path:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        arrays = {
            name if name.startswith("base_model.") else PREFIX + name: np.zeros(value, "f4")
            if isinstance(value, tuple)
            else value
            for name, value in tensors.items()
        }
        save_file(arrays, tmp_path / WEIGHTS)
        return tmp_path

    return written


def check(layout: AdapterLayout, family: dict[str, Path], **options: Any) -> None:
    shapes = {name: Shape(located.info.shape) for name, located in read_checkpoint(family["base"]).tensors.items()}
    for name in options.pop("without", ()):
        del shapes[name]
    check_against_base(layout, shapes, adapter_name="ns/adapter", base_name="ns/base@v1", **options)


TARGETS = {"target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head", "norm"]}
LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | TARGETS
PAIR = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (32, 4)}
VERA = {"peft_type": "VERA", "r": 3} | TARGETS
LAMBDAS = {f"{Q}.vera_lambda_b": (32,), f"{Q}.vera_lambda_d": (3,)}
PROJECTIONS = {"base_model.vera_A": (3, 48), "base_model.vera_B": (32, 3)}
ADA = {"peft_type": "ADALORA", "init_r": 5, "lora_alpha": 10} | TARGETS
TRIPLE = {f"{Q}.lora_A": (5, 32), f"{Q}.lora_B": (32, 5), f"{Q}.lora_E": (5, 1)}
IA3 = {"peft_type": "IA3"} | TARGETS
LOTR = {"graftwork_type": "LOTR"}
HYDRA = {"graftwork_type": "HYDRA"}
S2FT = {"graftwork_type": "S2FT"}


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        (LORA | {"use_dora": True}, PAIR, f"{Q}' has no lora_magnitude_vector, and its use_dora"),
        (LORA, PAIR | {f"{Q}.lora_magnitude_vector": (32,)}, "lora_magnitude_vector'.*does not say use_dora"),
        (
            LORA | {"use_dora": True},
            PAIR | {f"{Q}.lora_magnitude_vector": (31,)},
            r"lora_magnitude_vector' is \[31\].*ask for 32",
        ),
        (LORA, PAIR | {f"{Q}.lora_diag": (3,)}, r"lora_diag' is \[3\].*ask for 4"),
        (LORA | {"fan_in_fan_out": True}, PAIR | {f"{Q}.lora_diag": (4,)}, "lora_diag' is KaSA.*fan_in_fan_out"),
        (LORA, PAIR | {f"{Q}.lora_N.weight": (4, 4)}, "lora_N.weight' and init_lora_weights 'n_lora'"),
        (LORA | {"init_lora_weights": "n_lora"}, PAIR, "lora_N.weight' and init_lora_weights"),
        (LORA | {"kasa_config": {}}, PAIR, f"{Q}' has no lora_diag, and it has a kasa_config"),
        (LORA, PAIR | {f"{Q}.lora_diag": (4,), f"{Q}.lora_B.bias": (32,)}, "lora_B.bias' does not go with KaSA"),
        (LORA, {f"{EMBED}.lora_embedding_B": (32, 4)}, "embed_tokens' has no lora_embedding_A beside its 'base"),
        (LORA | {"modules_to_save": ["lm_head"]}, PAIR, "modules_to_save names 'lm_head', of which it has no tensor"),
        (
            LORA | {"ensure_weight_tying": True, "modules_to_save": ["embed_tokens"]},
            PAIR | {f"{EMBED}.weight": (64, 32)},
            "ensure_weight_tying.*embed_tokens.weight",
        ),
        (VERA | {"use_rslora": True}, LAMBDAS | PROJECTIONS, "its use_rslora is True"),
        (IA3 | {"r": 4}, {f"{Q}.ia3_l": (32, 1)}, "its r is 4"),
        (LOTR | {"scale": "much"}, {f"{Q}.lotr.mid": (2, 2)}, "its scale is 'much'"),
        (VERA, LAMBDAS, "no tensor 'base_model.vera_A'.*save_projection=True"),
        (
            VERA,
            LAMBDAS | PROJECTIONS | {"base_model.vera_B": (16, 3)},
            r"projections are \[3, 48\] and \[16, 3\].*q_proj",
        ),
        (VERA, PROJECTIONS | {f"{Q}.vera_lambda_b": (32,)}, "q_proj' has no vera_lambda_d"),
        (ADA, TRIPLE | {f"{Q}.lora_E": (5, 2)}, r"lora_E' is \[5, 2\].*ask for 1"),
        (ADA | {"init_r": 6}, TRIPLE, "rank 5 and 5.*gives it rank 6"),
        (ADA | {"rank_pattern": {f"{Q}.lora_E": [True] * 4 + [False]}}, TRIPLE, "rank 5 and 5.*gives it rank 4"),
        (ADA, {f"{Q}.lora_A": (5, 32), f"{Q}.lora_B": (32, 5)}, "q_proj' has no lora_E"),
        (IA3, {f"{Q}.ia3_l": (32,)}, "ia3_l' has 1 dimensions; accepted are 2"),
        (IA3, {f"{Q}.ia3_l": (32, 2)}, r"ia3_l' is \[32, 2\]"),
        (IA3, PAIR, "lora_A.weight' is not named.*its type is IA3"),
        (LOTR, {f"{Q}.lotr.mid": (2, 2)}, "q_proj' has no lotr.lhs beside its"),
        (LOTR | {"shared": {"(": "x"}}, {f"{Q}.lotr.mid": (2, 2)}, "its shared is not accepted"),
        (LOTR, {f"{Q}.lotr.mid": (2, 3), f"{Q}.lotr.lhs": (2, 32), f"{Q}.lotr.rhs": (32, 2)}, "lotr.mid"),
        (HYDRA, {f"{Q}.adapter_par.down_proj.weight": (2, 32)}, "q_proj' has no adapter_par.up_proj.weight"),
        (
            HYDRA,
            {f"{Q}.adapter_seq.down_proj.weight": (2, 32), f"{Q}.adapter_seq.up_proj.weight": (32, 3)},
            r"adapter_seq.up_proj.weight' is \[32, 3\]",
        ),
        (S2FT, {f"{Q}.s2ft_rows": (2, 32)}, "q_proj' has no s2ft_row_indices"),
        (
            S2FT,
            {f"{Q}.s2ft_rows": (2, 32), f"{Q}.s2ft_row_indices": (2,)},
            "s2ft_row_indices' is F32; accepted are I32, I64",
        ),
    ],
)
def test_a_refusal_names_what_is_at_fault(
    config: dict[str, object], tensors: Tensors, message: str, write: Writer
) -> None:
    with pytest.raises(InvalidAdapter, match=message):
        read_adapter(write(config, tensors))


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        (VERA, LAMBDAS | PROJECTIONS | {"base_model.vera_A": (3, 16)}, r"vera_A' is \[3, 16\].*has 32 inputs"),
        (
            VERA,
            PROJECTIONS | {f"{DOWN}.vera_lambda_b": (31,), f"{DOWN}.vera_lambda_d": (3,)},
            r"down_proj' is \[32, 48\]",
        ),
        (IA3, {f"{DOWN}.ia3_l": (1, 47)}, r"down_proj' is \[32, 48\] in the base, and the adapter is for \[32, 47\]"),
        (LORA, {f"{EMBED}.lora_embedding_A": (4, 63), f"{EMBED}.lora_embedding_B": (32, 4)}, r"is for \[63, 32\]"),
        (
            LORA,
            {f"{EMBED}.base_layer.weight": (66, 32)},
            r"base_layer.weight' is \[66, 32\], and the base's .* is \[64, 32\]",
        ),
        (LORA, {f"{Q}.base_layer.bias": (32,)}, "q_proj.base_layer.bias', and the base has no model"),
        (LORA, PAIR | {f"{Q}.base_layer.weight": (16, 16)}, r"base_layer.weight' is \[16, 16\]"),
        (S2FT, {f"{Q}.s2ft_rows": (0, 31), f"{Q}.s2ft_row_indices": np.zeros(0, "i4")}, r"is for \[32, 31\]"),
        (
            LORA,
            {f"{EMBED}.lora_A.weight": (4, 32), f"{EMBED}.lora_B.weight": (64, 4)},
            "embed_tokens' is an embedding, whose factors PEFT calls lora_embedding_A",
        ),
        (
            LORA,
            {"model.norm.lora_A.weight": (4, 32), "model.norm.lora_B.weight": (32, 4)},
            r"norm' is \[32\].*a matrix",
        ),
    ],
)
def test_a_misfit_names_the_module(
    config: dict[str, object], tensors: Tensors, message: str, write: Writer, family: dict[str, Path]
) -> None:
    with pytest.raises(IncompatibleAdapter, match=message):
        check(read_adapter(write(config, tensors)), family)


def test_a_tied_head_fits_where_only_an_engine_has_to_change_it(write: Writer, family: dict[str, Path]) -> None:
    tensors = {
        "lm_head.lora_A.weight": (4, 32),
        "lm_head.lora_B.weight": (64, 4),
        "lm_head.base_layer.weight": (64, 32),
    }
    layout = read_adapter(write(LORA, tensors))
    check(layout, family, without=["lm_head.weight"], tied_head=True)
    with pytest.raises(IncompatibleAdapter, match=r"'lm_head'.*tied"):
        check(layout, family, without=["lm_head.weight"])


@pytest.mark.parametrize("config", [LoHaConfig, LoKrConfig, FourierFTConfig])
def test_pefts_way_to_a_lora_is_named_and_goes_where_it_should(
    tmp_path: Path, family: dict[str, Path], config: Any
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(family["base"])
    model = get_peft_model(model, config(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    model.save_pretrained(str(tmp_path / "raw"))
    with pytest.raises(InvalidAdapter, match="PEFT's save_as_lora makes a LoRA of it"):
        read_adapter(tmp_path / "raw")
    save_as_lora(str(tmp_path / "lora"), model, rank=32)
    module = "model.layers.0.self_attn.q_proj"
    wanted = model.get_submodule(f"base_model.model.{module}").get_delta_weight("default").detach().numpy()
    np.testing.assert_allclose(load_lora(tmp_path / "lora").delta(module), wanted, atol=1e-4 * abs(wanted).max())


def test_layouts_say_what_they_hold(write: Writer) -> None:
    tensors = PAIR | {
        f"{EMBED}.lora_embedding_A": (4, 64),
        f"{EMBED}.lora_embedding_B": (32, 4),
        "model.norm.weight": (32,),
        f"{DOWN}.lora_A.weight": (4, 48),
        f"{DOWN}.lora_B.weight": (32, 4),
        f"{DOWN}.lora_B.bias": (32,),
    }
    layout = read_adapter(write(LORA | {"modules_to_save": ["norm"], "lora_bias": True}, tensors))
    assert set(layout.kinds) == {Kind.LORA, Kind.EMBEDDING, Kind.REPLACED}
    assert layout.ranks == {Q: 4, DOWN: 4}
    assert layout.parts["model.norm"].own.keys() == {"weight"}
    assert {name for part in layout.parts.values() for name in part.tensors} >= {"lora_B.bias", "lora_embedding_A"}


def test_a_kasa_adapter_needs_twice_its_rank(write: Writer) -> None:
    assert read_adapter(write(LORA, PAIR | {f"{Q}.lora_diag": (4,)})).ranks == {Q: 8}


def test_modules_to_save_match_the_end_of_a_path_as_in_peft(write: Writer) -> None:
    config = LORA | {"modules_to_save": ["self_attn", "1.mlp.up_proj"]}
    tensors = {f"{Q}.weight": (32, 32), "model.layers.1.mlp.up_proj.weight": (48, 32)}
    tensors |= {f"{DOWN}.base_layer.weight": (32, 48)}
    layout = read_adapter(write(config, tensors))
    saved = {name: layout.config.saves(name) for name in layout.parts}
    assert saved == {Q: True, "model.layers.1.mlp.up_proj": True, DOWN: False}


def test_weights_load_as_they_were_written(write: Writer) -> None:
    folder = write(LORA, PAIR)
    assert set(load_file(folder / WEIGHTS)) == set(read_adapter(folder).header.tensors)
