"""How the norms of a loaded model compute on a CPU: in one call of our kernel in place of eight of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.rms_norm import rms_norm

EPS = ("variance_epsilon", "eps")
"""What models call the number under the root."""


class NativeNorm:
    """The forward of a norm by `kernels.rms_norm`. With gradients, the module computes as before."""

    def __init__(self, module: nn.Module, eps: float) -> None:
        native: Any = native_module()
        self.module, self.eps = module, eps
        self._plainly, self._compute = module.forward, native.rms_norm

    @property
    def weight(self) -> Tensor:
        """[width]"""
        weight: Any = self.module._parameters["weight"]
        return weight  # type: ignore[no-any-return]

    def __call__(self, x: Tensor) -> Tensor:
        """The module's output."""
        weight = self.weight
        if x.dtype != weight.dtype or torch.is_grad_enabled() or x.device.type != "cpu":
            return self._plainly(x)  # type: ignore[no-any-return]
        x = x.contiguous()
        y = torch.empty_like(x)
        self._compute(native_view(y), native_view(x), native_view(weight), self.eps)
        return y


def take_over_norms(model: nn.Module) -> int:
    """Let every module of `model` that computes `kernels.rms_norm` do so by its native twin; how many do now.

    Which ones do is found out by their answers to a few random rows. With gradients, they compute as before.
    """
    taken = 0
    for module in model.modules():
        eps = next((getattr(module, name) for name in EPS if isinstance(getattr(module, name, None), float)), None)
        weight = getattr(module, "weight", None)
        if eps is None or not isinstance(weight, Tensor) or weight.dim() != 1 or list(module.parameters()) != [weight]:
            continue
        if rms_norm.choice(weight.detach()) == "native" and _is_rms_norm(module, weight.detach(), eps):
            module.forward = NativeNorm(module, eps)
            taken += 1
    return taken


@torch.inference_mode()
def _is_rms_norm(module: nn.Module, weight: Tensor, eps: float) -> bool:
    rows = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0))
    x = (rows * torch.tensor([[1.0], [eps**0.5], [30.0], [0.01]])).to(weight.dtype)  # one where eps is felt
    found = module(x)
    wanted: Any = rms_norm(x, weight, eps)
    tolerance = 4 * torch.finfo(weight.dtype).eps
    return found.dtype == x.dtype and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance * 1e-3)
