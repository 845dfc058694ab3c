from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from graftwork.adapters.attachment.attach import Attachments, Rows
from graftwork.adapters.attachment.linears import take_over_linears
from graftwork.adapters.attachment.resident import Resident
from graftwork.kernels.dispatch import native_module

NAME = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module", autouse=True)
def _native() -> None:
    native = native_module()
    if native is None or not native.has_fast_linear("F32"):
        pytest.skip("the processor has no AVX-512")


@pytest.mark.parametrize("name", ["weight", "bias"])
@torch.inference_mode()
def test_what_a_layer_is_given_later_counts(name: str) -> None:
    layer, x = nn.Linear(40, 24), torch.randn(2, 3, 40)
    assert list(take_over_linears(layer)) == [layer]
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    getattr(layer, name).data = torch.randn_like(getattr(layer, name))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    setattr(layer, name, nn.Parameter(torch.randn_like(getattr(layer, name)), requires_grad=False))
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("is_taken", [False, True])
@torch.inference_mode()
def test_a_layer_that_computes_other_rows_is_named(is_taken: bool) -> None:
    model: Any = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)
    )
    attachments = Attachments(model, 8, linears=take_over_linears(model) if is_taken else {})
    resident = Resident("digest", 0, 2, {NAME: 2})
    for factors in attachments.rows_of(resident).values():
        factors.a.tensor.normal_()
        factors.b.tensor.normal_()
    layer, x, slots = model.get_submodule(NAME), torch.randn(1, 3, 64), torch.zeros(3, dtype=torch.int32)
    with attachments.routed(Rows((resident,), slots, slots)):
        assert not torch.allclose(layer(x), F.linear(x, layer.weight))
        with pytest.raises(ValueError, match=rf"{NAME} computes 2 rows of 3, so adapters cannot change it"):
            layer(x[:, :2])
