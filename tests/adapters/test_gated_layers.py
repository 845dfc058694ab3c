from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config, PretrainedConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from graftwork.adapters.attachment.gated import take_over_gated
from graftwork.adapters.attachment.linears import take_over_linears
from graftwork.kernels.dispatch import native_module
from graftwork.settings import load_settings

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 300}
KINDS: dict[Any, PretrainedConfig] = {
    LlamaMLP: LlamaConfig(**SIZES),
    Gemma3MLP: Gemma3TextConfig(**SIZES),
}


def has_fast_linears() -> bool:
    native = native_module()
    return native is not None and bool(native.has_fast_linear("F32") and native.has_fast_linear("BF16"))


def layer(kind: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    made = kind(KINDS[kind]).to(dtype).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_layer_is_taken_over_and_computes_the_same(kind: Any, dtype: torch.dtype) -> None:
    module, x = layer(kind, dtype), torch.randn(1, 7, 64).to(dtype)
    with torch.inference_mode():
        before = module(x)
        assert take_over_gated(module) == 1
        after = module(x)
    if kind is LlamaMLP and dtype == torch.bfloat16:
        assert torch.equal(after, before)
    torch.testing.assert_close(
        after, before, rtol=2 * torch.finfo(dtype).eps, atol=1e-4 if dtype == torch.float32 else 0.1
    )


class OtherWayRound(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))  # type: ignore[no-any-return]


class Scaled(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x * 1.1)) * self.up_proj(x))  # type: ignore[no-any-return]


class Clamped(LlamaMLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(max=40))  # type: ignore[no-any-return]


class Longer(LlamaMLP):
    """Cannot answer the question that a gated layer is asked."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self.router = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) + self.router(x)  # type: ignore[no-any-return]


def test_what_computes_something_else_is_left_alone() -> None:
    relu = LlamaConfig(**SIZES, hidden_act="relu")
    kinds: list[tuple[Any, Any]] = [(LlamaMLP, relu), (Phi3MLP, Phi3Config(**SIZES))]
    kinds += [(kind, LlamaConfig(**SIZES)) for kind in (OtherWayRound, Scaled, Clamped, Longer)]
    others = [*(kind(config) for kind, config in kinds), layer(LlamaMLP, torch.float64)]
    assert [take_over_gated(other) for other in others] == [0] * len(others)


def test_hooks_of_the_projections_change_the_answer_and_keep_what_they_saw() -> None:
    module, x, seen = layer(LlamaMLP), torch.randn(1, 5, 64), []

    def change(of: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        output.mul_(1.5)

    for name in ("gate_proj", "up_proj"):
        getattr(module, name).register_forward_hook(change)
    with torch.inference_mode():
        before = module(x)
        take_over_gated(module)
        torch.testing.assert_close(module(x), before)
        module.gate_proj.register_forward_hook(lambda of, args, output: seen.append(output))
        torch.testing.assert_close(module(x), before)
        torch.testing.assert_close(seen[0], 1.5 * torch.nn.functional.linear(x, module.gate_proj.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_gets_the_same_bits_alone_beside_others_and_on_threads(dtype: torch.dtype) -> None:
    module: Any = layer(LlamaMLP, dtype)
    module.gate_proj, module.up_proj, module.down_proj = nn.Identity(), nn.Identity(), nn.Identity()
    module.register_parameter("weight", nn.Parameter(torch.ones(1, dtype=dtype)))
    assert take_over_gated(module) == 1
    native, x = native_module(), torch.randn(400, 1003).to(dtype) * 3
    assert native is not None
    with torch.inference_mode():
        together = module(x.clone())
        try:
            native.set_threads(3)
            assert torch.equal(module(x.clone()), together)
        finally:
            native.set_threads(load_settings().threads)
        for row in range(0, 400, 57):
            assert torch.equal(module(x[row : row + 1].clone())[0], together[row])


def whole(dtype: torch.dtype) -> Any:
    """A layer that is computed in one call."""
    made = layer(LlamaMLP, dtype)
    assert len(take_over_linears(made)) == 3
    assert take_over_gated(made) == 1
    return made


@pytest.mark.skipif(not has_fast_linears(), reason="the processor has no AVX-512 for bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_one_call_has_the_bits_of_the_steps(dtype: torch.dtype) -> None:
    made, by_steps = whole(dtype), whole(dtype)
    by_steps.up_proj.register_forward_hook(lambda module, args, output: None)
    for rows in (40, 1, 300, 7):
        x = torch.randn(1, rows, 64).to(dtype)
        assert torch.equal(made(x), by_steps(x))
    assert torch.equal(made(x.transpose(1, 2).contiguous().transpose(1, 2)), by_steps(x))


@pytest.mark.skipif(not has_fast_linears(), reason="the processor has no AVX-512 for bfloat16")
@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj"])
@torch.inference_mode()
def test_one_call_obeys_a_hook_and_a_new_weight(name: str) -> None:
    made, x = whole(torch.float32), torch.randn(1, 5, 64)
    before = made(x)
    hook = getattr(made, name).register_forward_hook(lambda module, args, output: output * 0)
    assert torch.equal(made(x), torch.zeros_like(x))
    hook.remove()
    assert torch.equal(made(x), before)
    getattr(made, name).weight.data = torch.zeros_like(getattr(made, name).weight)
    assert torch.equal(made(x), torch.zeros_like(x))


@pytest.mark.parametrize("with_linears", [False, True])
def test_gradients_go_the_old_way(with_linears: bool) -> None:
    module, x = layer(LlamaMLP), torch.randn(2, 64, requires_grad=True)
    if with_linears:
        take_over_linears(module)
    take_over_gated(module)
    module(x).sum().backward()
    assert x.grad is not None
    assert module.gate_proj.weight.grad is not None
