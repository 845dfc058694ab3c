"""What an adapter adds to a weight, against PEFT's merged weights; plain LoRA where it is that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.variants.lora import load_lora, save_lora
from graftwork.adapters.variants.variant import Variant, read_variant
from graftwork.adapters.weights import ModelWeights
from graftwork.errors import InvalidAdapter
from graftwork.registry.formats.peft import read_adapter
from graftwork.testing.formats import gpt2_formats, llama_formats, quiet, qwen2_formats, with_peft, write_peft

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

FORMATS = {"llama": llama_formats, "gpt2": gpt2_formats, "qwen2": qwen2_formats}
CASES = [(architecture, name) for architecture, formats in FORMATS.items() for name in formats()]
FULL_RANK = ("dora", "dora-embedding", "embedding", "saved", "saved-layer", "lora-bias", "bias-all", "bias-own", "ia3")
UNMERGED = [("llama", "lora-bias")]
"""PEFT merges a bias of B into a module that has one."""
TIED = ("lm_head", "transformer.wte")
NEEDS_BASE = ("vera", "kasa", "head")


@pytest.fixture(scope="module")
def written(
    family_of: Callable[[str], Family], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[Path, Path]]:
    """The base and the folder of one of the formats."""

    def write(architecture: str, name: str) -> tuple[Path, Path]:
        base = family_of(architecture).base
        folder = tmp_path_factory.mktemp(architecture) / name
        return base, write_peft(base, folder, FORMATS[architecture]()[name], seed=3)

    return write


def weight_of(model: Any, module: str) -> torch.Tensor:
    found = model.get_submodule(module)
    weight: torch.Tensor = found.weight.detach().double()
    return weight.t() if isinstance(found, Conv1D) else weight


@pytest.mark.parametrize(("architecture", "name"), [case for case in CASES if case not in UNMERGED])
def test_the_change_of_every_weight_is_that_of_pefts_merged_weights(
    architecture: str, name: str, written: Callable[[str, str], tuple[Path, Path]]
) -> None:
    base, folder = written(architecture, name)
    variant = read_variant(read_adapter(folder))
    with quiet():
        original: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        merged = with_peft(base, folder, torch.float64).double().merge_and_unload()
    changed = set()
    for module in dict(original.named_modules()):
        if not hasattr(original.get_submodule(module), "weight"):
            continue
        before, after = weight_of(original, module), weight_of(merged, module)
        if module in variant.modules:
            delta = variant.delta(module, before.numpy())
            assert delta.dtype == np.float64
            np.testing.assert_allclose(delta, (after - before).numpy(), rtol=2e-5, atol=2e-6, err_msg=module)
            changed.add(module)
        elif module not in TIED:  # PEFT merges into the weight that both share, or unties them
            assert torch.equal(before, after), module
    assert changed == set(variant.modules)


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_what_is_plain_lora_becomes_a_folder_with_the_same_change(
    architecture: str, name: str, written: Callable[[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    base, folder = written(architecture, name)
    variant = read_variant(read_adapter(folder))
    weights = ModelWeights(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    lora = variant.to_lora(weights)
    assert (lora is None) == (name in FULL_RANK)
    assert (variant.to_lora() is None) == (name in FULL_RANK + NEEDS_BASE)
    if lora is None:
        with pytest.raises(InvalidAdapter, match=r"tensor 'base_model.*no product of two factors"):
            load_lora(folder)
        return
    save_lora(lora, tmp_path, base_model=None, fan_in_fan_out=architecture == "gpt2")
    again = read_variant(read_adapter(tmp_path))
    for module in lora.modules:
        w0 = weights.weight(module).double().numpy()
        np.testing.assert_allclose(again.delta(module, w0), variant.delta(module, w0), rtol=1e-5, atol=1e-6)
    if name not in NEEDS_BASE:
        assert load_lora(folder).modules.keys() == lora.modules.keys()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_converted_base_changing_adapter_is_plain_lora(init: str, family: Family, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from graftwork.testing.formats import unsettle

    options: dict[str, Any] = {"init_lora_weights": init}
    config = LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "down_proj"], **options)
    with quiet():
        model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32), config)
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(str(tmp_path / "initial"))
        model.peft_config["default"].init_lora_weights = init
        unsettle(model)
        model.save_pretrained(str(tmp_path / "raw"))
        model.save_pretrained(
            str(tmp_path / "converted"), path_initial_model_for_weight_conversion=str(tmp_path / "initial")
        )
        trained = model.merge_and_unload()
    with pytest.raises(InvalidAdapter, match=rf"'{init}'.*changes the base.*path_initial_model_for_weight_conversion"):
        read_adapter(tmp_path / "raw")
    variant: Variant = read_variant(read_adapter(tmp_path / "converted"))
    original = AutoModelForCausalLM.from_pretrained(family.base, dtype=torch.float32)
    for module in variant.modules:
        w0 = weight_of(original, module)
        expected = (weight_of(trained, module) - w0).numpy()
        np.testing.assert_allclose(variant.delta(module, w0.numpy()), expected, rtol=1e-3, atol=1e-5)
