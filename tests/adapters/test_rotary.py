from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    CohereModel,
    GptOssConfig,
    GptOssModel,
    LlamaConfig,
    LlamaModel,
    Phi3Config,
    Phi3Model,
)
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from graftwork.adapters.attachment.rotary import take_over_rotary
from graftwork.kernels.dispatch import native_module
from graftwork.settings import load_settings

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model: Any = LlamaModel(LlamaConfig(**SIZES))
    return model.to(dtype).eval()


def turn_of(dtype: torch.dtype) -> Any:
    """What a module that was taken over calls in place of its own function."""
    model = llama(dtype)
    assert take_over_rotary(model) == 2
    return model.layers[0].self_attn.forward.__func__.__globals__["apply_rotary_pos_emb"]


def given(dtype: torch.dtype, rows: int, heads: int = 4, width: int = 16, spare: int = 0) -> list[Tensor]:
    """q, k, cos and sin as an attention has them; `spare` columns lie between the rows of q and of k."""
    torch.manual_seed(rows)
    q, k = (torch.randn(1, rows, n * width + spare)[..., : n * width] for n in (heads, 2))
    cos, sin = torch.randn(2, 1, rows, width)
    return [x.to(dtype) for x in (q.view(1, rows, heads, width), k.view(1, rows, 2, width), cos, sin)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width", "spare"), [(1, 16, 0), (7, 96, 5), (300, 128, 0), (2, 30, 3)])
def test_bits_are_those_of_the_model_s_own_function(dtype: torch.dtype, rows: int, width: int, spare: int) -> None:
    turn = turn_of(dtype)
    q, k, cos, sin = given(dtype, rows, width=width, spare=spare)
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    with torch.inference_mode():
        for found, wanted in zip(turn(q, k, cos, sin), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
            assert torch.equal(found, wanted)
            assert found[0].transpose(0, 1).is_contiguous()


def test_a_row_gets_the_same_bits_alone_beside_others_and_on_threads() -> None:
    turn, native = turn_of(torch.bfloat16), native_module()
    assert native is not None
    q, k, cos, sin = given(torch.bfloat16, 900, width=128)
    with torch.inference_mode():
        together, _ = turn(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
        try:
            native.set_threads(3)
            assert torch.equal(turn(q.transpose(1, 2), k.transpose(1, 2), cos, sin)[0], together)
        finally:
            native.set_threads(load_settings().threads)
        for row in range(0, 900, 111):
            one = [x[:, row : row + 1] for x in (q, k, cos, sin)]
            alone, _ = turn(one[0].transpose(1, 2), one[1].transpose(1, 2), one[2], one[3])
            assert torch.equal(alone[:, :, 0], together[:, :, row])


@pytest.mark.parametrize(
    ("kind", "config", "taken"),
    [
        (LlamaModel, LlamaConfig(**SIZES), 2),
        (Phi3Model, Phi3Config(**SIZES), 2),
        (CohereModel, CohereConfig(**SIZES), 0),
        (GptOssModel, GptOssConfig(**SIZES, head_dim=16, num_local_experts=2, num_experts_per_tok=1), 0),
    ],
)
def test_a_model_that_turns_as_llama_does_is_taken_over(kind: type[Any], config: Any, taken: int) -> None:
    """Cohere's function turns neighbours together, that of GPT-OSS wants cosines of half the width."""
    model, ids = kind(config).eval(), torch.arange(9)[None]
    with torch.inference_mode():
        before = model(ids).last_hidden_state
        assert take_over_rotary(model) == taken
        torch.testing.assert_close(model(ids).last_hidden_state, before, rtol=0, atol=0)


def test_another_model_of_the_process_keeps_its_own_function() -> None:
    other = llama()
    take_over_rotary(llama())
    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb
    assert "forward" not in vars(other.layers[0].self_attn)


def test_several_sequences_a_part_of_the_head_and_gradients_go_the_old_way() -> None:
    model, ids = llama(), torch.arange(18).view(2, 9)
    with torch.inference_mode():
        before = model(ids).last_hidden_state
    take_over_rotary(model)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).last_hidden_state, before, rtol=0, atol=0)
    model(ids[:1]).last_hidden_state.sum().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad is not None
    q, k, cos, sin = given(torch.float32, 5)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="must match the size"):  # as Llama's own says
        turn_of(torch.float32)(q.transpose(1, 2), k.transpose(1, 2), cos[..., :8], sin[..., :8])
