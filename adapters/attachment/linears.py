"""How the linear layers of a loaded model multiply on a CPU: by our kernel, which leaves their weights as they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor, nn

from graftwork.kernels.dispatch import native_module
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.linear import linear


def take_over_linears(model: nn.Module) -> int:
    """Let every nn.Linear of `model` multiply by `kernels.linear` where that is faster than torch; how many do now.

    A row of the result then has the same bits whatever rows are computed beside it, which torch does not promise. The
    weights are read where they lie: no packed copy is made. With gradients, torch multiplies as before.
    """
    native = native_module()
    taken = 0
    for module in model.modules():
        if type(module) is not nn.Linear or linear.choice(module.weight.detach()) != "native":
            continue
        if native is not None and native.has_fast_linear(safetensors_name(module.weight.dtype)):
            module.forward = _forward(module)  # type: ignore[method-assign, assignment]
            taken += 1
    return taken


def _forward(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    native = native_module()
    assert native is not None  # noqa: S101  it was asked
    dtype, width, out = safetensors_name(module.weight.dtype), module.in_features, module.out_features
    multiply, view = native.linear, native.Array

    def forward(x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias
        if x.dtype != weight.dtype or torch.is_grad_enabled() or x.device.type != "cpu" or not weight.is_contiguous():
            return F.linear(x, weight, bias)
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], out)
        rows = y.numel() // out
        multiply(
            view(y.data_ptr(), dtype, (rows, out)),
            view(x.data_ptr(), dtype, (rows, width)),
            view(weight.data_ptr(), dtype, (out, width)),
            None if bias is None else view(bias.data_ptr(), dtype, (out,)),
        )
        return y

    return forward
