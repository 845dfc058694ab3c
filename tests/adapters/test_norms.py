from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from graftwork.adapters.attachment.norms import take_over_norms

WIDTH = 300


def filled(norm: nn.Module, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    nn.init.normal_(norm.weight, 1.0)  # type: ignore[arg-type]
    return norm.to(dtype)


def before_and_after(norm: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, int]:
    with torch.inference_mode():
        before = norm(x)
        taken = take_over_norms(norm)
        return before, norm(x), taken


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_a_llama_is_taken_over_and_computes_the_same(kind: type[nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(1, 7, WIDTH).to(dtype) * 3
    before, after, taken = before_and_after(filled(kind(WIDTH), dtype), x)
    assert taken == 1
    assert after.shape == before.shape
    torch.testing.assert_close(after, before, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("norm", [GemmaRMSNorm(WIDTH), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH, eps=0.3)])
def test_what_computes_something_else_is_left_alone(norm: nn.Module) -> None:
    expected = int(isinstance(norm, nn.RMSNorm))
    before, after, taken = before_and_after(filled(norm, torch.float32), torch.randn(5, WIDTH))
    assert taken == expected
    torch.testing.assert_close(after, before)


def test_a_row_gets_the_same_bits_alone_and_beside_others() -> None:
    norm = filled(LlamaRMSNorm(WIDTH), torch.bfloat16)
    take_over_norms(norm)
    x = torch.randn(40, WIDTH).to(torch.bfloat16)
    with torch.inference_mode():
        together = norm(x)
        assert all(torch.equal(norm(x[row : row + 1])[0], together[row]) for row in range(len(x)))


def test_gradients_and_another_dtype_go_the_old_way() -> None:
    norm = filled(LlamaRMSNorm(WIDTH), torch.float32)
    take_over_norms(norm)
    x = torch.randn(2, WIDTH, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    with torch.inference_mode():
        half = norm(torch.randn(2, WIDTH).to(torch.bfloat16))
    assert torch.isfinite(half).all()
