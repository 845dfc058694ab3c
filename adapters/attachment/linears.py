"""How the linear layers of a loaded model multiply on a CPU: by our kernel, which leaves their weights as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor, nn

from graftwork.adapters.attachment.watch import Watch
from graftwork.kernels.dispatch import native_module, native_view
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.linear import linear

Planned = tuple[Any, Any]
"""Native: the rows of a step, and the plan of what is added to them; None both, where nothing is."""
NOTHING: Planned = None, None


class LowRank(Protocol):
    """What the adapters of a step add to one layer."""

    def planned(self, rows: int, dtype: torch.dtype) -> Planned | None:
        """What a native call can add to as many rows of `dtype`; None where only `add` can do it.

        Raises ValueError when the step has not as many.
        """

    def add(self, y: Tensor, x: Tensor) -> None:
        """Add it to the layer's output for `x`, in place."""


class NativeLinear:
    """The forward of an nn.Linear by `kernels.linear`, and of its low rank in the same call.

    A row of the result has the same bits whatever rows are computed beside it, which torch does not promise. The weight
    is read where it lies: no packed copy is made. With gradients, and once the module has another weight or bias,
    torch multiplies.
    """

    def __init__(self, module: nn.Linear) -> None:
        native: Any = native_module()
        self.module, self.dtype, self.out = module, module.weight.dtype, module.out_features
        self.low_rank: LowRank | None = None
        self._watch = Watch([module])
        weight, bias = (None if each is None else native_view(each.detach()) for each in (module.weight, module.bias))
        self.layer = native.LinearLayer(weight, bias)

    def planned(self, rows: int) -> Planned | None:
        """As `LowRank.planned`."""
        return NOTHING if self.low_rank is None else self.low_rank.planned(rows, self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """The module's output, [..., out]."""
        if x.dtype != self.dtype or not x.is_cpu or torch.is_grad_enabled() or not self._watch.is_intact:
            y, planned = F.linear(x, self.module.weight, self.module.bias), None
        else:
            x, y = x.contiguous(), x.new_empty(*x.shape[:-1], self.out)
            rows = y.numel() // self.out
            planned = self.planned(rows)
            self.layer.compute(y.data_ptr(), x.data_ptr(), rows, planned or NOTHING)
        if planned is None and self.low_rank is not None:
            self.low_rank.add(y, x)
        return y


def is_computed_at_once(x: Tensor, dtype: torch.dtype, watch: Watch) -> bool:
    """Whether one native call may do what modules of a dtype make of `x`."""
    return x.dtype == dtype and x.is_cpu and not torch.is_grad_enabled() and watch.is_bare


def take_over_linears(model: nn.Module) -> Mapping[nn.Module, NativeLinear]:
    """Give every nn.Linear of `model` for which that is faster than torch a NativeLinear as its forward."""
    native = native_module()
    taken: dict[nn.Module, NativeLinear] = {}
    for module in model.modules():
        if type(module) is not nn.Linear or linear.choice(module.weight.detach()) != "native":
            continue
        if native is not None and native.has_fast_linear(safetensors_name(module.weight.dtype)):
            taken[module] = module.forward = NativeLinear(module)  # type: ignore[method-assign, assignment]
    return taken
