"""How the gated feed-forward layers of a loaded model compute on a CPU what lies between their projections."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any, get_args

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.linears import NativeLinear, is_computed_at_once
from graftwork.adapters.attachment.watch import Watch
from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.gated_product import Activation, gated_product

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PARTS = (*PROJECTIONS, "act_fn")
"""What models call the layer's modules; a layer of more is something else."""

TAKEN = (torch.float32, torch.float16, torch.bfloat16)
"""The kernel computes in float32, so that in float64 torch computes more exactly."""


class GatedForward:
    """The forward of a gated feed-forward layer: in one call where nothing looks into it, or else by steps."""

    def __init__(self, module: Any, activation: Activation) -> None:
        native: Any = native_module()
        self._compute = native.gated_product
        self._module, self._activation, self._plainly = module, activation, module.forward
        projections = [getattr(module, name).forward for name in PROJECTIONS]
        self.projections: tuple[NativeLinear, ...] = ()
        """To its gate, up and down, where they can be computed in one call."""
        if all(isinstance(each, NativeLinear) and each.dtype == projections[0].dtype for each in projections):
            self.projections = tuple(projections)
            self._watch = Watch(each.module for each in projections)
            self.layers = native.GatedLayers(*(each.layer for each in projections), activation)

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output, as x."""
        if self.projections and is_computed_at_once(x, self.projections[0].dtype, self._watch):
            x, y = x.contiguous(), x.new_empty(*x.shape[:-1], self.projections[-1].out)
            rows = y.numel() // y.shape[-1]
            planned = [each.planned(rows) for each in self.projections]
            if None not in planned:
                self.layers.compute(y.data_ptr(), x.data_ptr(), rows, *planned)
                return y
        return self._by_steps(x)

    def _by_steps(self, x: Tensor) -> Tensor:
        module = self._module
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self._plainly(x)  # type: ignore[no-any-return]
        gate, up = module.gate_proj(x), module.up_proj(x)
        if not (gate.dtype == up.dtype and gate.dtype in TAKEN and gate.shape == up.shape):
            return module.down_proj(module.act_fn(gate) * up)  # type: ignore[no-any-return]
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        self._compute(*map(native_view, (out, gate, up)), self._activation)
        return module.down_proj(out)  # type: ignore[no-any-return]


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
                module.forward = GatedForward(module, activation)
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
