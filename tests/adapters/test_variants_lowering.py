"""What lowering refuses, and what it knows to be no change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from graftwork.adapters.changes import Lowered
from graftwork.adapters.variants.lowering import lower
from graftwork.adapters.variants.variant import read_variant
from graftwork.adapters.weights import ModelWeights
from graftwork.errors import IncompatibleAdapter, NonFiniteTensor
from graftwork.registry.formats.peft import read_adapter
from graftwork.testing.formats import gpt2_formats, llama_formats, write_folder, write_peft

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

Q = "model.layers.0.self_attn.q_proj"
TARGETS = ["q_proj", "nowhere", "embed_tokens", "lm_head", "wte", "c_attn"]
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "lora_bias": True, "target_modules": TARGETS}
PAIR = {f"{Q}.lora_A.weight": torch.ones(2, 64), f"{Q}.lora_B.weight": torch.ones(64, 2)}


def weights_of(family: Family) -> ModelWeights:
    return ModelWeights(AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32))


def lowered(folder: Path, family: Family, dtype: torch.dtype = torch.float32) -> Lowered:
    return lower(read_variant(read_adapter(folder)), weights_of(family), dtype, adapter_name="ns/a", base_name="ns/b")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"model.nowhere.lora_A.weight": (2, 64), "model.nowhere.lora_B.weight": (64, 2)},
            "'model.nowhere', which the",
        ),
        ({f"{Q}.lora_A.weight": (2, 32), f"{Q}.lora_B.weight": (64, 2)}, r"q_proj' is \[64, 64\] .*\[64, 32\]"),
        (
            {"lm_head.lora_embedding_A": (2, 260), "lm_head.lora_embedding_B": (64, 2)},
            "a Linear there, which LoRA on an",
        ),
        (
            {"model.embed_tokens.lora_A.weight": (2, 64), "model.embed_tokens.lora_B.weight": (260, 2)},
            "Embedding there",
        ),
        ({"model.norm.weight": (63,)}, r"norm.weight' is \[63\], and the base has \[64\]"),
        ({f"{Q}.base_layer.bias": (64,)}, r"q_proj.base_layer.bias' is \[64\], and the base has none"),
    ],
)
def test_a_module_that_cannot_be_changed_so_is_named(
    tensors: dict[str, Any], message: str, family: Family, tmp_path: Path
) -> None:
    named = {name: torch.ones(shape) for name, shape in tensors.items()}
    with pytest.raises(IncompatibleAdapter, match=rf"ns/a does not fit the base ns/b: .*{message}"):
        lowered(write_folder(tmp_path / "a", LORA, named), family)


@pytest.mark.parametrize(
    ("tensors", "dtype"),
    [
        ({f"{Q}.lora_B.weight": torch.full((64, 2), 1e30)}, torch.float16),
        ({f"{Q}.lora_B.weight": torch.full((64, 2), torch.inf)}, torch.float32),
        ({f"{Q}.lora_B.bias": torch.full((64,), torch.nan)}, torch.float32),
    ],
)
def test_what_is_not_finite_in_the_engines_dtype_is_named(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype, family: Family, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "a", LORA, PAIR | {f"{Q}.lora_B.bias": torch.ones(64)} | tensors)
    with pytest.raises(NonFiniteTensor, match="q_proj"):
        lowered(folder, family, dtype)


def test_a_parameter_like_the_bases_is_no_change(family_of: Callable[[str], Family], tmp_path: Path) -> None:
    family = family_of("gpt2")
    config = gpt2_formats()["bias-all"]
    write_peft(family.base, tmp_path / "a", config, seed=0)
    stored = load_file(tmp_path / "a" / "adapter_model.safetensors")
    current = weights_of(family)
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in stored.items()}
    for name in tensors:
        bias = current.bias(name.removesuffix(".bias").removesuffix(".base_layer")) if name.endswith("bias") else None
        if bias is not None and "ln_f" not in name:
            tensors[name] = bias
    changes = lowered(write_folder(tmp_path / "b", LORA | {"r": 3, "fan_in_fan_out": True}, tensors), family).changes
    assert {name for name, change in changes.items() if change.bias is not None} == {"transformer.ln_f"}
    assert {name for name, change in changes.items() if change.low_rank} == {
        f"transformer.h.{layer}.attn.c_attn" for layer in (0, 1)
    }


def test_an_embedding_saved_beside_its_low_rank_changes_a_tied_head_too(
    family_of: Callable[[str], Family], tmp_path: Path
) -> None:
    family = family_of("gpt2")
    own = torch.randn(260, 64)
    factors = {"lora_embedding_A": torch.ones(2, 260), "lora_embedding_B": torch.ones(64, 2)}
    tensors = {f"transformer.wte.{role}": tensor for role, tensor in factors.items()}
    saved = lowered(write_folder(tmp_path / "a", LORA, tensors | {"transformer.wte.base_layer.weight": own}), family)
    assert saved.changes.keys() == {"transformer.wte", "lm_head"}
    assert all(torch.equal(change.weight, own) for change in saved.changes.values() if change.weight is not None)
    config = LORA | {"modules_to_save": ["wte"]}
    alone = lowered(write_folder(tmp_path / "b", config, {"transformer.wte.weight": own}), family)
    assert alone.changes.keys() == {"transformer.wte"}, "PEFT wraps a copy, and the head keeps the base's weight"


def test_the_sizes_that_residency_counts(family: Family, tmp_path: Path) -> None:
    plain = lowered(write_peft(family.base, tmp_path / "a", llama_formats()["patterns"], seed=0), family)
    assert plain.is_plain
    assert (plain.rank, plain.device_bytes) == (6, 0)
    layout = read_adapter(write_peft(family.base, tmp_path / "b", llama_formats()["kasa"], seed=0))
    kasa = lowered(tmp_path / "b", family)
    assert kasa.ranks == layout.ranks == dict.fromkeys(layout.parts, 6)
    ia3 = lowered(write_peft(family.base, tmp_path / "c", llama_formats()["ia3"], seed=0), family)
    assert (ia3.rank, ia3.is_plain) == (0, False)
    assert ia3.device_bytes == 4 * 3 * (32 + 32 + 96)
