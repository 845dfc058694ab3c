"""Each form alone, against the layer with the changed parameters in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from graftwork.adapters import forms
from graftwork.adapters.changes import Change, EmbeddingFactors, Factors, Lines, Lowered
from graftwork.adapters.forms.form import Form
from graftwork.adapters.weights import ModelWeights

OUT, IN, ROWS = 10, 6, 5


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def form_of(module: nn.Module, change: Change) -> Form:
    return forms.of(Lowered({"0": change}), ModelWeights(nn.Sequential(module)))["0"]


def served(module: nn.Module, change: Change, x: Tensor) -> Tensor:
    """What an engine does: before, the module, the low rank, after."""
    form = form_of(module, change)
    x = form.before(x)
    y = module(x).detach()
    if change.low_rank is not None:
        y = y + (x @ change.low_rank.a.T) @ change.low_rank.b
    return form.after(x, y, change.low_rank is not None)


def linear(kind: str, *, bias: bool = True) -> Any:
    module: Any = nn.Linear(IN, OUT, bias=bias) if kind == "Linear" else Conv1D(OUT, IN)  # type: ignore[no-untyped-call]
    if module.bias is not None:
        nn.init.normal_(module.bias)
    return module


def parameters(module: Any) -> tuple[Tensor, Tensor]:
    weight = module.weight.detach().double()
    bias = torch.zeros(OUT).double() if module.bias is None else module.bias.detach().double()
    return (weight.T if isinstance(module, Conv1D) else weight), bias


@pytest.mark.parametrize("kind", ["Linear", "Conv1D", "Linear without bias"])
@pytest.mark.parametrize("part", ["scale", "scale and bias", "whole scale", "bias", "input", "weight", "lines", "all"])
def test_a_linear_layer(kind: str, part: str) -> None:
    module = linear(kind.split()[0], bias="without" not in kind)
    weight, bias = parameters(module)
    low = Factors(torch.randn(2, IN), torch.randn(2, OUT))
    scale, new_bias, inputs, own = torch.rand(OUT) + 0.5, torch.randn(OUT), torch.rand(IN) + 0.5, torch.randn(OUT, IN)
    rows = Lines(torch.tensor([1, 4, 9]), torch.randn(3, IN))
    columns = Lines(torch.tensor([0, 5]), torch.randn(OUT, 2))
    change = {
        "scale": Change(low_rank=low, scale=scale),
        "scale and bias": Change(low_rank=low, scale=scale, bias=new_bias),
        "whole scale": Change(scale=scale, scales_bias=True),
        "bias": Change(low_rank=low, bias=new_bias),
        "input": Change(input_scale=inputs),
        "weight": Change(weight=own, bias=new_bias if module.bias is not None else None),
        "lines": Change(rows=rows, columns=columns),
        "all": Change(low_rank=low, scale=scale, bias=new_bias, input_scale=inputs, rows=rows, columns=columns),
    }[part]
    if change.weight is not None:
        weight, bias = own.double(), bias if change.bias is None else new_bias.double()
    for index, row in zip(rows.indices, rows.block, strict=True):
        weight = weight.clone()
        weight[index] += row if change.rows is not None else 0
    for place, index in enumerate(columns.indices):
        weight[:, index] += columns.block[:, place] if change.columns is not None else 0
    if change.low_rank is not None:
        weight = weight + low.b.T.double() @ low.a.double()
    if change.bias is not None:
        bias = new_bias.double()
    if change.scale is not None:
        weight = weight * scale[:, None]
        bias = bias * scale if change.scales_bias else bias
    if change.input_scale is not None:
        weight = weight * inputs
    x = torch.randn(ROWS, IN)
    torch.testing.assert_close(served(module, change, x), (x.double() @ weight.T + bias).float(), rtol=1e-5, atol=1e-5)


def test_an_embedding_and_its_own_scale() -> None:
    ids = torch.tensor([3, 0, 3])
    factors = EmbeddingFactors(torch.randn(7, 2), torch.randn(2, OUT))
    magnitude = torch.rand(OUT) + 0.5
    for module in (nn.Embedding(7, OUT, 0), Gemma3TextScaledWordEmbedding(7, OUT, 0, embed_scale=3.0)):
        changed = (module.weight.detach() + factors.rows @ factors.b) * magnitude
        expected = changed[ids] * float(getattr(module, "embed_scale", 1.0))
        got = served(module, Change(embedding=factors, scale=magnitude), ids)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        own = torch.randn(7, OUT)
        expected = (own + factors.rows @ factors.b)[ids] * float(getattr(module, "embed_scale", 1.0))
        torch.testing.assert_close(served(module, Change(embedding=factors, weight=own), ids), expected)


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_a_norm_keeps_its_own_way(kind: str) -> None:
    module: Any = nn.LayerNorm(IN) if kind == "LayerNorm" else LlamaRMSNorm(IN)
    weight, bias, x = torch.randn(IN), torch.randn(IN), torch.randn(ROWS, IN)
    change = Change(weight=weight, bias=bias if kind == "LayerNorm" else None)
    got = served(module, change, x)
    with torch.no_grad():
        module.weight.copy_(weight)
        if kind == "LayerNorm":
            module.bias.copy_(bias)
    torch.testing.assert_close(got, module(x).detach())


def test_a_replaced_head_adds_the_low_rank_anew() -> None:
    module = linear("Linear")
    low, own, x = Factors(torch.randn(2, IN), torch.randn(2, OUT)), torch.randn(OUT, IN), torch.randn(ROWS, IN)
    expected = x @ (own + low.b.T @ low.a).T + module.bias.detach()
    torch.testing.assert_close(served(module, Change(weight=own, low_rank=low), x), expected)


def test_a_replaced_module_does_not_run_the_hooks_of_the_base() -> None:
    module = linear("Linear")
    calls = []
    module.register_forward_hook(lambda *_: calls.append("hook"))
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    form_of(module, Change(weight=torch.randn(OUT, IN))).after(torch.randn(ROWS, IN), torch.randn(ROWS, OUT), False)
    assert calls == []


def test_plain_changes_need_no_form() -> None:
    low = Factors(torch.randn(2, IN), torch.randn(2, OUT))
    lowered = Lowered({"0": Change(low_rank=low)})
    assert lowered.is_plain
    assert forms.of(lowered, ModelWeights(nn.Sequential(linear("Linear")))) == {}
    assert (lowered.rank, lowered.device_bytes, lowered.host_bytes) == (2, 0, 4 * 2 * (IN + OUT))
    scaled = Lowered({"0": Change(low_rank=low, scale=torch.ones(OUT))})
    assert not scaled.is_plain
    assert scaled.device_bytes == 4 * OUT


def test_a_module_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        forms.of(Lowered({"1": Change(scale=torch.ones(OUT))}), ModelWeights(nn.Sequential(linear("Linear"))))
