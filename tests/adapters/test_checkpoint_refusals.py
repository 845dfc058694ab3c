"""What the engine cannot compute as transformers does is refused when it is loaded, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DogeConfig,
    Gemma2Config,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    NemotronConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
)

from graftwork.adapters.engine import attention
from graftwork.adapters.engine.engine import Engine
from graftwork.errors import InvalidCheckpoint, InvalidSetting
from graftwork.settings import Settings

if TYPE_CHECKING:
    from tests.adapters.conftest import Family

SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EXPERTS: dict[str, Any] = {
    **SMALL,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


@pytest.fixture
def folder_of(tmp_path: Path, family: Family) -> Callable[[Any], Path]:
    def save(config: Any) -> Path:
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        model.save_pretrained(tmp_path / "model")
        for file in family.base.glob("tokenizer*"):
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
        return tmp_path / "model"

    return save


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(**SMALL), "attention needs softcap"),
        (GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1), "attention needs s_aux"),
        (MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=1, state_size=4), "attention of Mamba"),
        (
            LlamaConfig(
                **SMALL,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "original_max_position_embeddings": 32,
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                    "factor": 2.0,
                },
            ),
            "longrope rotary embedding .* set max_model_tokens to 32 or less",
        ),
        (
            Qwen2MoeConfig(**EXPERTS, use_sliding_window=True, sliding_window=20, max_window_layers=1),
            "some of its layers see 20 tokens at a time, .* set max_model_tokens to 20 or less",
        ),
        (
            Llama4TextConfig(**SMALL, intermediate_size_mlp=32, num_local_experts=2, attention_chunk_size=24),
            "some of its layers see 24 tokens at a time, .* set max_model_tokens to 24 or less",
        ),
        (DogeConfig(**SMALL), "attention needs a mask of its own making"),
        (NemotronConfig(**SMALL), "it does not hand its attention the arguments that are meant for it"),
    ],
    ids=[
        "soft cap",
        "attention sinks",
        "no attention",
        "longrope",
        "untold window",
        "untold chunks",
        "own mask",
        "own ways",
    ],
)
def test_a_model_that_needs_more_than_packed_attention_is_refused(
    config: Any, reason: str, folder_of: Callable[[Any], Path], settings: Settings
) -> None:
    with pytest.raises(InvalidCheckpoint, match=reason):
        Engine.load(folder_of(config), settings)


def test_a_window_that_no_sequence_outgrows_is_no_reason_to_refuse(
    folder_of: Callable[[Any], Path], settings: Settings
) -> None:
    folder = folder_of(Qwen2MoeConfig(**EXPERTS, use_sliding_window=True, sliding_window=20, max_window_layers=1))
    assert Engine.load(folder, replace(settings, max_model_tokens=20)).max_tokens == 20


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("T5ForConditionalGeneration", {"model_type": "t5", "is_encoder_decoder": True}),
        ("ConvBertForMaskedLM", {"model_type": "convbert"}),
        ("LlamaForSequenceClassification", {}),
    ],
)
def test_what_is_no_causal_language_model_is_refused_by_its_architecture(
    architecture: str, changes: dict[str, Any], folder_of: Callable[[Any], Path], settings: Settings
) -> None:
    folder = folder_of(LlamaConfig(**SMALL))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes, "architectures": [architecture]}))
    with pytest.raises(InvalidCheckpoint, match=f"it is a {architecture}, and the embedded engine serves causal"):
        Engine.load(folder, settings)


def test_a_model_whose_logits_come_out_different_is_refused(
    family: Family, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(*args: Any, **kwargs: Any) -> Any:
        out, weights = packed(*args, **kwargs)
        return out * 1.5, weights

    packed = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", forgetful)
    with pytest.raises(InvalidCheckpoint, match=r"computes other logits than transformers does \(off by \d"):
        Engine.load(family.base, settings)
    monkeypatch.undo()
    attention.register()


def test_a_checkpoint_without_all_its_tensors_is_refused(folder_of: Callable[[Any], Path], settings: Settings) -> None:
    folder = folder_of(LlamaConfig(**SMALL, tie_word_embeddings=False))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InvalidCheckpoint, match=r"1 of the model's tensors are missing, model\.layers\.1\.mlp\.up_proj"
    ):
        Engine.load(folder, settings)


def test_a_folder_without_weights_is_refused(family: Family, settings: Settings, tmp_path: Path) -> None:
    for file in family.base.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InvalidCheckpoint, match=r"model\.safetensors"):
        Engine.load(tmp_path, settings)


def test_an_unknown_dtype_is_refused(family: Family, settings: Settings) -> None:
    with pytest.raises(InvalidSetting, match="dtype is 'int4': expected one of float32, float16, bfloat16"):
        Engine.load(family.base, settings, dtype="int4")


def test_a_model_runs_in_the_dtype_that_is_asked_for(family: Family, settings: Settings) -> None:
    engine = Engine.load(family.base, settings, dtype="bfloat16")
    model: PreTrainedModel = engine._runner.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(family.base).dtype == torch.float32
