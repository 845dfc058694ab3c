"""Models written `model+adapter`: the adapter is merged in as the model is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PeftConfig, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from graftwork.errors import GraftworkError
from graftwork.merge.extract.extract import extract
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.merge.slices.slices import GRAIN
from graftwork.settings import Settings

LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=288, intermediate_size=320, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)


TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}


def family(root: Path, kind: str = "llama", **options: Any) -> str:
    targets = options.pop("target_modules", TARGETS[kind])
    return adapted_by(root, kind, LoraConfig(r=5, lora_alpha=7, target_modules=targets, **options))


def adapted_by(root: Path, kind: str, config: PeftConfig) -> str:
    """A base and an adapter whose every parameter differs from what it was initialised with."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA) if kind == "llama" else GPT2LMHeadModel(GPT2)
    model.save_pretrained(root / "base")
    adapted = get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
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


@pytest.mark.parametrize("options", [{"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"], "use_dora": True}])
@pytest.mark.parametrize("bare", ["base", "adapter"])
def test_one_of_both_may_be_of_the_class_without_a_head(tmp_path: Path, bare: str, options: dict[str, Any]) -> None:
    reference = family(tmp_path, **options)
    wanted = expected(tmp_path)
    root = tmp_path / ("base" if bare == "base" else "lora")
    file, prefix = {"base": ("model.safetensors", "model."), "adapter": ("adapter_model.safetensors", "model.model.")}[
        bare
    ]
    tensors = load_file(root / file)
    shorter = {name.replace(prefix, prefix.removesuffix("model."), 1): values for name, values in tensors.items()}
    assert shorter.keys() != tensors.keys()
    save_file(shorter, root / file, {"format": "pt"})
    got = passthrough(reference, tmp_path / "out")
    assert len(got) == len(wanted)
    for name, values in wanted.items():
        here = name.removeprefix("model.") if bare == "base" else name
        torch.testing.assert_close(got[here], values, rtol=1e-5, atol=1e-5, msg=name)


VARIANTS: dict[str, tuple[str, PeftConfig]] = {
    "DoRA": ("llama", LoraConfig(r=5, use_dora=True, target_modules=["q_proj", "down_proj"])),
    "DoRA on a Conv1D": ("gpt2", LoraConfig(r=5, use_dora=True, target_modules=["c_attn"], fan_in_fan_out=True)),
    "LoRA and DoRA on the embedding": ("llama", LoraConfig(r=3, use_dora=True, target_modules=["embed_tokens"])),
    "LoRA on the embedding": ("gpt2", LoraConfig(r=3, target_modules=["wpe", "c_fc"], fan_in_fan_out=True)),
    "AdaLoRA": ("llama", AdaLoraConfig(init_r=5, target_r=3, total_step=9, target_modules=["q_proj"])),
    "VeRA": ("llama", VeraConfig(r=6, target_modules=["q_proj", "o_proj"])),
    "IA3": ("llama", IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "IA3 with biases": (
        "gpt2", IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
                          fan_in_fan_out=True),
    ),
    "a saved head and embedding": (
        "llama", LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens", "norm"]),
    ),
    "biases": ("gpt2", LoraConfig(r=4, target_modules=["c_attn"], bias="all", fan_in_fan_out=True)),
    "a bias of B": ("gpt2", LoraConfig(r=4, target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape:UserWarning")
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_merged_as_peft_merges_it(tmp_path: Path, name: str) -> None:
    kind, config = VARIANTS[name]
    reference = adapted_by(tmp_path, kind, config)
    got, wanted = passthrough(reference, tmp_path / "out", memory=40 * GRAIN), expected(tmp_path, kind)
    base = load_file(tmp_path / "base" / "model.safetensors")
    assert got.keys() == wanted.keys() == base.keys()
    changed = [tensor for tensor, values in wanted.items() if not torch.equal(values, base[tensor])]
    assert changed
    for tensor, values in wanted.items():
        torch.testing.assert_close(got[tensor], values, rtol=1e-5, atol=1e-5, msg=tensor)
        assert tensor in changed or torch.equal(got[tensor], base[tensor])


def apart(kind: str, **options: Any) -> LoraConfig:
    """An adapter of the embedding, of the head or of both; PEFT lets each module find its own orientation."""
    return LoraConfig(r=3, fan_in_fan_out=kind == "gpt2", **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("targets", "saved"),
    [("E", ""), ("EH", ""), ("q", "E"), ("q", "H"), ("q", "EH")],
    ids=["embedding", "both", "saved embedding", "saved head", "both saved"],
)
def test_what_a_tied_head_and_embedding_learn_apart_stays_apart(
    tmp_path: Path, kind: str, targets: str, saved: str
) -> None:
    """The merged model computes what PEFT computes before merging, where head and embedding are not one."""
    named = {"E": "wte" if kind == "gpt2" else "embed_tokens", "H": "lm_head", "q": TARGETS[kind][0]}
    base = tied_base(tmp_path / "base", kind)
    config = apart(kind, target_modules=[named[key] for key in targets], modules_to_save=[named[key] for key in saved])
    adapted = get_peft_model(type(base).from_pretrained(tmp_path / "base"), config).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(str(tmp_path / "lora"))
    passthrough(f"{tmp_path / 'base'}+{tmp_path / 'lora'}", tmp_path / "out")
    merged = type(base).from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, rtol=1e-4, atol=1e-4)
    assert merged.config.tie_word_embeddings is False


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_models_that_are_merged_with_one_of_an_untied_head_are_untied_too(tmp_path: Path) -> None:
    base = tied_base(tmp_path / "base", "llama")
    adapted: Any = get_peft_model(base, apart("llama", target_modules=["q_proj"], modules_to_save=["lm_head"]))
    head = adapted.base_model.model.lm_head.modules_to_save["default"].weight
    head.data += torch.randn_like(head)
    adapted.save_pretrained(str(tmp_path / "lora"))
    model = {"model": f"{tmp_path / 'base'}+{tmp_path / 'lora'}", "parameters": {"weight": 0.5}}
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": [model]}
    merged = load_file(merge(load_recipe(recipe), out=tmp_path / "out", settings=Settings()) / "model.safetensors")
    embedding = load_file(tmp_path / "base" / "model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(merged["model.embed_tokens.weight"], embedding)
    torch.testing.assert_close(merged["lm_head.weight"], (embedding + head.detach()) / 2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adapters_of_a_tied_head_are_merged_with_each_other(tmp_path: Path) -> None:
    adapted = get_peft_model(tied_base(tmp_path / "base", "llama"), apart("llama", target_modules=["lm_head"]))
    adapted.save_pretrained(str(tmp_path / "lora"), save_embedding_layers=False)
    models = [{"model": str(tmp_path / "lora")}] * 2
    recipe = {"merge_method": "lora_cat", "base_model": str(tmp_path / "base"), "models": models}
    merged = load_file(
        merge(load_recipe(recipe), out=tmp_path / "out", settings=Settings()) / "adapter_model.safetensors"
    )
    assert {name: len(factor) for name, factor in merged.items() if "lora_A" in name} == {
        "base_model.model.lm_head.lora_A.weight": 6
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_copy_of_the_bases_head_is_no_hindrance_where_the_base_is_named(tmp_path: Path, is_tied: bool) -> None:
    base = tied_base(tmp_path / "base", "llama") if is_tied else LlamaForCausalLM(LLAMA)
    base.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(base, apart("llama", target_modules=["lm_head"]))
    adapted.save_pretrained(str(tmp_path / "lora"))
    saved = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    [copy] = [name for name in saved if "base_layer" in name]
    recipe: dict[str, Any] = {"merge_method": "lora_cat", "models": [{"model": str(tmp_path / "lora")}] * 2}
    with pytest.raises(GraftworkError, match="name the base"):
        merge(load_recipe(recipe), out=tmp_path / "out", settings=Settings())
    recipe["base_model"] = str(tmp_path / "base")
    merged = merge(load_recipe(recipe), out=tmp_path / "out", settings=Settings())
    assert sorted(load_file(merged / "adapter_model.safetensors")) == sorted(saved.keys() - {copy})
    saved[copy][3, 3] += 1
    save_file(saved, tmp_path / "lora" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(GraftworkError, match=r"lm_head\.base_layer\.weight' is trained"):
        merge(load_recipe(recipe), out=tmp_path / "other", settings=Settings())


def tied_base(folder: Path, kind: str) -> Any:
    """A base whose file has one tensor for its head and its embedding."""
    torch.manual_seed(0)
    tied = LlamaConfig(**LLAMA.to_dict() | {"tie_word_embeddings": True})
    model = LlamaForCausalLM(tied) if kind == "llama" else GPT2LMHeadModel(GPT2)
    model.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    return model


@pytest.mark.parametrize("name", ["DoRA", "IA3", "a saved head and embedding"])
def test_an_adapter_of_a_task_vector_changes_the_whole_model(tmp_path: Path, name: str) -> None:
    _, adapter = adapted_by(tmp_path, *VARIANTS[name]).rsplit("+", 1)
    tuned = LlamaForCausalLM.from_pretrained(tmp_path / "base")
    for parameter in tuned.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(tmp_path / "tuned")
    extract(str(tmp_path / "tuned"), str(tmp_path / "base"), out=tmp_path / "delta", settings=Settings())
    models = [{"model": f"{tmp_path / 'delta'}+{adapter}"}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(tmp_path / "base"), "models": models}
    got = load_file(merge(load_recipe(recipe), out=tmp_path / "out", settings=Settings()) / "model.safetensors")
    for tensor, values in passthrough(f"{tmp_path / 'tuned'}+{adapter}", tmp_path / "whole").items():
        torch.testing.assert_close(got[tensor], values, rtol=1e-5, atol=1e-5, msg=tensor)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape:UserWarning")
def test_a_bias_that_the_base_has_no_place_for_is_refused(tmp_path: Path) -> None:
    reference = family(tmp_path, lora_bias=True)
    with pytest.raises(GraftworkError, match=r"a bias of '\S+down_proj', and the base has none to merge it into"):
        passthrough(reference, tmp_path / "out")


def test_the_bytes_do_not_depend_on_slices_or_threads(tmp_path: Path) -> None:
    reference = family(tmp_path, use_dora=True)
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
    with pytest.raises(GraftworkError, match=r"expected a whole model, a \+ and one adapter"):
        passthrough(f"{tmp_path / first}+{tmp_path / second}", tmp_path / "out")


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    family(tmp_path)
    GPT2LMHeadModel(GPT2).save_pretrained(tmp_path / "other")
    with pytest.raises(GraftworkError, match="does not fit the base"):
        passthrough(f"{tmp_path / 'other'}+{tmp_path / 'lora'}", tmp_path / "out")
