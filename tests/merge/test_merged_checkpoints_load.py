"""What transformers makes of a merged checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from graftwork.merge.recipe.recipe import load_recipe
from graftwork.merge.run.run import merge
from graftwork.settings import Settings

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)
GPT2 = GPT2Config(
    vocab_size=64,
    n_embd=16,
    n_layer=2,
    n_head=2,
    n_positions=32,
    bos_token_id=0,
    eos_token_id=0,
    resid_pdrop=0,
    embd_pdrop=0,
    attn_pdrop=0,
)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
def test_transformers_computes_with_a_merged_model_what_the_average_computes(
    tmp_path: Path, kind: str, shard_size: str
) -> None:
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LLAMA) if kind == "llama" else GPT2LMHeadModel(GPT2)
        model.save_pretrained(tmp_path / str(seed))
        models.append(model)
    recipe = load_recipe(
        {
            "merge_method": "linear",
            "models": [{"model": str(tmp_path / "0")}, {"model": str(tmp_path / "1")}],
            "output": {"shard_size": shard_size},
        }
    )
    merged = AutoModelForCausalLM.from_pretrained(merge(recipe, out=tmp_path / "merged", settings=Settings()))
    average = models[0]
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), models[1].parameters(), strict=True):
            ours.copy_((ours + theirs) / 2)
        tokens = torch.arange(12).reshape(2, 6)
        torch.testing.assert_close(merged(tokens).logits, average(tokens).logits, rtol=1e-5, atol=1e-5)


def test_the_dtype_of_a_merged_model_is_the_one_asked_for(tmp_path: Path) -> None:
    LlamaForCausalLM(LLAMA).save_pretrained(tmp_path / "model")
    recipe = load_recipe(
        {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "model")}], "dtype": "bfloat16"}
    )
    folder = merge(recipe, out=tmp_path / "merged", settings=Settings())
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16
