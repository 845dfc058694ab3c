"""Models written `model+adapter`: the adapter is merged in as the model is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from graftwork.errors import GraftworkError
from graftwork.merge.recipe import load_recipe
from graftwork.merge.run import merge
from graftwork.merge.slices import GRAIN
from graftwork.settings import Settings

LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=288, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)


def family(root: Path, kind: str = "llama", **options: Any) -> str:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA) if kind == "llama" else GPT2LMHeadModel(GPT2)
    model.save_pretrained(root / "base")
    targets = ["q_proj", "down_proj"] if kind == "llama" else ["c_attn"]
    adapted = get_peft_model(model, LoraConfig(r=5, lora_alpha=7, target_modules=targets, **options))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(root / "lora"))
    return f"{root / 'base'}+{root / 'lora'}"


def expected(root: Path, kind: str = "llama") -> dict[str, torch.Tensor]:
    whole = LlamaForCausalLM if kind == "llama" else GPT2LMHeadModel
    merged = PeftModel.from_pretrained(whole.from_pretrained(root / "base"), root / "lora").merge_and_unload()
    merged.save_pretrained(root / "expected")
    return load_file(root / "expected" / "model.safetensors")


def passthrough(reference: str, out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    recipe = load_recipe({"merge_method": "passthrough", "models": [{"model": reference}]})
    return load_file(merge(recipe, out=out, settings=Settings(**settings)) / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llama", {}), ("llama", {"use_rslora": True}), ("llama", {"rank_pattern": {"q_proj": 2}}),
     ("gpt2", {"fan_in_fan_out": True})],
)  # fmt: skip
def test_the_result_is_pefts(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    reference = family(tmp_path, kind, **options)
    got, wanted = passthrough(reference, tmp_path / "out"), expected(tmp_path, kind)
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        torch.testing.assert_close(got[name], values, rtol=1e-5, atol=1e-5, msg=name)


def test_the_bytes_do_not_depend_on_slices_or_threads(tmp_path: Path) -> None:
    reference = family(tmp_path)
    small = passthrough(reference, tmp_path / "small", memory=40 * GRAIN, threads=1)
    large = passthrough(reference, tmp_path / "large", memory=1_000_000_000, threads=2)
    assert all(torch.equal(small[name], values) for name, values in large.items())


def test_an_adapted_model_is_a_model_like_others(tmp_path: Path) -> None:
    reference = family(tmp_path)
    base = load_file(tmp_path / "base" / "model.safetensors")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": {"model": str(tmp_path / "base"), "lora": {"path": str(tmp_path / "lora")}}}],
        "parameters": {"weight": 0.5},
    }
    folder = merge(load_recipe(recipe), out=tmp_path / "half", settings=Settings())
    got = load_file(folder / "model.safetensors")
    for name, values in expected(tmp_path).items():
        torch.testing.assert_close(got[name], (base[name] + values) / 2, rtol=1e-5, atol=1e-5, msg=name)
    assert f"{(tmp_path / 'base').name}+lora" in (folder / "README.md").read_text()
    assert reference


def test_a_bfloat16_model_is_rounded_once(tmp_path: Path) -> None:
    reference = family(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    got = passthrough(reference, tmp_path / "out")
    factors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"].double().numpy() for side in "AB")
        stored = model.state_dict()[f"{name}.weight"].double().numpy()
        wanted = torch.from_numpy(np.asarray(stored + 7 / 5 * b @ a, np.float32)).bfloat16()
        differing = (got[f"{name}.weight"] != wanted).float().mean()
        assert got[f"{name}.weight"].dtype == torch.bfloat16
        assert differing < 1e-3


@pytest.mark.parametrize(("first", "second"), [("base", "base"), ("lora", "lora"), ("lora", "base")])
def test_only_a_model_and_an_adapter_can_be_added(tmp_path: Path, first: str, second: str) -> None:
    family(tmp_path)
    with pytest.raises(GraftworkError, match=r"expected a whole model, a \+ and one LoRA adapter"):
        passthrough(f"{tmp_path / first}+{tmp_path / second}", tmp_path / "out")


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    family(tmp_path)
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path / "other")
    with pytest.raises(GraftworkError, match="does not fit the base"):
        passthrough(f"{tmp_path / 'other'}+{tmp_path / 'lora'}", tmp_path / "out")
