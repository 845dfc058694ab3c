"""LoRAs of fine-tunes whose files name or hold things otherwise than transformers' modules, as PEFT loads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftConfig, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from graftwork.errors import InvalidCheckpoint
from graftwork.merge.extract.extract import extract, extract_version
from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.registry.refs import Name, Ref
from graftwork.registry.registry import Registry
from graftwork.registry.transfer.importer import import_source
from graftwork.settings import Settings

hf: Any = transformers
Model = Callable[[], Any]
RANK = 2
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SEEN: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
QWEN_EYES = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
MAMBA: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "expand": 2}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 1}
MODELS: dict[str, tuple[Model, set[str]]] = {
    "llava": (
        lambda: hf.LlavaForConditionalGeneration(
            hf.LlavaConfig(
                text_config=hf.LlamaConfig(**TEXT), vision_config=hf.CLIPVisionConfig(**SEEN), image_token_index=1
            )
        ),
        set(),
    ),
    "qwen2_vl": (
        lambda: hf.Qwen2VLForConditionalGeneration(
            hf.Qwen2VLConfig(text_config={**TEXT, "rope_parameters": ROPE}, vision_config=QWEN_EYES)
        ),
        set(),
    ),
    "gemma3": (
        lambda: hf.Gemma3ForConditionalGeneration(
            hf.Gemma3Config(text_config={**TEXT, "head_dim": 8}, vision_config=SEEN, mm_tokens_per_image=4)
        ),
        {"lm_head"},
    ),
    "mamba": (lambda: hf.MambaForCausalLM(hf.MambaConfig(**MAMBA, time_step_rank=2)), {"out_proj", "lm_head"}),
    "mamba2": (
        lambda: hf.Mamba2ForCausalLM(hf.Mamba2Config(**MAMBA, num_heads=4, head_dim=8, n_groups=1)),
        {"out_proj"},
    ),
    "gpt_oss": (
        lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**TEXT, **EXPERTS, num_local_experts=2, head_dim=8)),
        {"router", "gate_up_proj", "down_proj"},
    ),
    "mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**TEXT, **EXPERTS, num_local_experts=2)),
        {"gate", "w1", "w2", "w3"},
    ),
    "qwen2_moe": (
        lambda: hf.Qwen2MoeForCausalLM(
            hf.Qwen2MoeConfig(
                **TEXT, **EXPERTS, num_experts=2, moe_intermediate_size=8, shared_expert_intermediate_size=8
            )
        ),
        {"gate", "gate_proj", "up_proj", "down_proj"},
    ),
    "gpt_neox": (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)), set()),
}
"""And what, by the last step of its path, is in no LoRA: heads tied to an embedding, what PEFT does not adapt."""


def saved(root: Path, make: Model) -> type:
    """A base, and a model whose every parameter is elsewhere: matrices by a change of rank 2."""
    torch.manual_seed(0)
    model = make()
    model.save_pretrained(root / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            change = torch.randn_like(parameter)
            if parameter.dim() == 2:
                change = torch.randn(len(parameter), RANK) @ torch.randn(RANK, parameter.shape[1])
            parameter.add_(change, alpha=0.1)
    model.save_pretrained(root / "tuned")
    return type(model)


@pytest.mark.parametrize("kind", MODELS)
def test_peft_adds_what_was_taken(kind: str, tmp_path: Path) -> None:
    make, dense = MODELS[kind]
    made: Any = saved(tmp_path, make)
    report = extract(
        str(tmp_path / "tuned"), str(tmp_path / "base"), out=tmp_path / "out", settings=Settings(), rank=RANK
    )
    left = {name.removesuffix(".weight").rpartition(".")[2] for name in report.left}
    assert left >= dense - {"lm_head"}
    with warnings.catch_warnings(action="ignore"):
        config: Any = PeftConfig.from_pretrained(str(tmp_path / "out"))
        adapted: Any = get_peft_model(made.from_pretrained(tmp_path / "base"), config)
        loaded: Any = set_peft_model_state_dict(adapted, load_peft_weights(str(tmp_path / "out"), device="cpu"))
    assert loaded.unexpected_keys == []
    got = adapted.merge_and_unload()
    base, tuned = (made.from_pretrained(tmp_path / name).state_dict() for name in ("base", "tuned"))
    linear = {name for name, module in got.named_modules() if isinstance(module, nn.Linear)}
    assert linear >= report.modules.keys()
    for name, tensor in got.state_dict().items():
        module = name.removesuffix(".weight")
        torch.testing.assert_close(
            tensor, tuned[name] if module in report.modules else base[name], atol=1e-5, rtol=1e-4
        )
    for module in linear - report.modules.keys():
        assert module.rpartition(".")[2] in dense


def test_a_vision_language_models_lora_is_registered_and_merged_under_both_names(tmp_path: Path) -> None:
    made: Any = saved(tmp_path, MODELS["llava"][0])
    with safe_open(tmp_path / "base" / "model.safetensors", "pt") as file:
        assert "language_model.model.layers.0.mlp.up_proj.weight" in set(file.keys())
    settings = Settings(home=tmp_path / "home")
    with Registry.open(settings) as registry:
        base = import_source(registry, str(tmp_path / "base"), Name.parse("acme/base"))
        import_source(registry, str(tmp_path / "tuned"), Name.parse("acme/tuned"), base=Ref.parse("acme/base"))
        version, report = extract_version(
            "acme/tuned", "acme/base", Name.parse("acme/lora"), registry=registry, settings=settings, rank=RANK
        )
        assert version.base == base.digest
    assert "model.language_model.layers.0.mlp.up_proj" in report.modules
    extract(str(tmp_path / "tuned"), str(tmp_path / "base"), out=tmp_path / "lora", settings=settings, rank=RANK)
    recipe = load_recipe(
        {"merge_method": "passthrough", "models": [{"model": f"{tmp_path / 'base'}+{tmp_path / 'lora'}"}]}
    )
    merged = made.from_pretrained(merge(recipe, out=tmp_path / "merged", settings=settings)).state_dict()
    tuned = made.from_pretrained(tmp_path / "tuned").state_dict()
    for module in report.modules:
        torch.testing.assert_close(merged[f"{module}.weight"], tuned[f"{module}.weight"], atol=1e-5, rtol=1e-4)


def test_a_configuration_that_makes_no_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, MODELS["gpt_neox"][0])
    for name in ("base", "tuned"):
        config = tmp_path / name / "config.json"
        config.write_text(config.read_text().replace('"hidden_size": 16', '"hidden_size": "many"'))
    with pytest.raises(InvalidCheckpoint, match=r"transformers makes no GPTNeoXForCausalLM of its config\.json.*dense"):
        extract(str(tmp_path / "tuned"), str(tmp_path / "base"), out=tmp_path / "out", settings=Settings(), rank=2)
