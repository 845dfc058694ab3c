"""How the gated feed-forward layers of a loaded model compute on a CPU what lies between their projections."""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.linears import NativeLinear
from graftwork.kernels.dispatch import native_module
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.gated_product import Activation, gated_product

PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")
"""What models call the layer's modules; a layer of more is something else."""

TAKEN = (torch.float32, torch.float16, torch.bfloat16)
"""The kernel computes in float32, so that in float64 torch computes more exactly."""


def take_over_gated(model: nn.Module) -> int:
    """Let every layer of `model` that computes `down_proj(act_fn(gate_proj(x)) * up_proj(x))` do the middle of it by
    `kernels.gated_product`; how many do now.

    Which ones do is found out by their answers to a few random rows. Projections that `take_over_linears` took over are
    computed in the same call; others, and those that hooks look into, are called as before. With gradients, the layers
    compute as before.
    """
    taken = 0
    for module in model.modules():
        if {name for name, _ in module.named_children()} == set(PARTS) and "forward" not in vars(module):
            activation = _activation(module)
            if activation is not None:
                module.forward = _forward(module, activation)
                taken += 1
    return taken


class _Told(nn.Module):
    """Gives one answer to one question, and nothing but NaN to others."""

    def __init__(self, question: Tensor, answer: Tensor) -> None:
        super().__init__()
        self.question, self.answer = question, answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer if x is self.question else torch.full_like(self.answer, torch.nan)


@torch.inference_mode()
def _activation(module: nn.Module) -> Activation | None:
    """Which activation the layer computes, if it is such a layer and the kernel is the way to compute it."""
    weight = next(module.parameters(), torch.empty(0)).detach()
    dtype, parameters = weight.dtype, signature(type(module).forward).parameters
    if dtype not in TAKEN or gated_product.choice(weight) != "native" or len(parameters) != 2:
        return None
    generator = torch.Generator().manual_seed(0)
    x, gate, up = (torch.randn(1, 4, 64, generator=generator) for _ in range(3))
    gate, up = gate * torch.tensor([[0.3], [3], [100], [3]]), up * torch.tensor([[3], [3], [3], [100]])  # clamps show
    x, gate, up = x.to(dtype), gate.to(dtype), up.to(dtype)
    layer = copy.copy(module)
    told = {"gate_proj": _Told(x, gate), "up_proj": _Told(x, up), "down_proj": nn.Identity()}
    layer._modules = {**module._modules, **told}
    found = type(module).forward(layer, x)
    lost = 1e-6 * (gate.float() * up.float()).abs()  # of 1 + tanh(x) near -1, by torch
    for name in get_args(Activation):
        wanted: Any = gated_product(gate, up, name)
        allowed = 2 * torch.finfo(dtype).eps * wanted.float().abs() + lost
        if found.dtype == dtype and bool(((found.float() - wanted.float()).abs() <= allowed).all()):
            return name  # type: ignore[no-any-return]
    return None


def _forward(module: Any, activation: Activation) -> Callable[[Tensor], Tensor]:
    stepwise = _by_steps(module, activation)
    gate, up, down = module.gate_proj.forward, module.up_proj.forward, module.down_proj.forward
    if not all(isinstance(each, NativeLinear) and each.dtype == gate.dtype for each in (gate, up, down)):
        return stepwise
    native: Any = native_module()
    compute = native.GatedLayers(gate.layer, up.layer, down.layer, activation).compute

    def forward(x: Tensor) -> Tensor:
        """All of the layer in one call, where nothing looks into it."""
        if x.dtype != gate.dtype or not x.is_cpu or torch.is_grad_enabled():
            return stepwise(x)
        if not (gate.is_bare and up.is_bare and down.is_bare):
            return stepwise(x)
        x, y = x.contiguous(), x.new_empty(*x.shape[:-1], down.out)
        rows = y.numel() // down.out
        planned = gate.planned(rows), up.planned(rows), down.planned(rows)
        if any(each is None for each in planned):
            return stepwise(x)
        compute(y.data_ptr(), x.data_ptr(), rows, *planned)
        return y

    return forward


def _by_steps(module: Any, activation: Activation) -> Callable[[Tensor], Tensor]:
    native, plainly = native_module(), module.forward
    assert native is not None  # noqa: S101  it was asked
    compute, view = native.gated_product, native.Array

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return plainly(x)  # type: ignore[no-any-return]
        gate, up = module.gate_proj(x), module.up_proj(x)
        dtype, size = safetensors_name(gate.dtype), (gate.numel(),)
        if not (gate.dtype == up.dtype and gate.dtype in TAKEN and gate.shape == up.shape):
            return module.down_proj(module.act_fn(gate) * up)  # type: ignore[no-any-return]
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        to, given, factor = (view(array.data_ptr(), dtype, size) for array in (out, gate, up))
        compute(to, given, factor, activation)
        return module.down_proj(out)  # type: ignore[no-any-return]

    return forward
