"""`linear` in plain torch."""

from __future__ import annotations

from torch import Tensor


def linear(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    """See `graftwork.kernels.linear`."""
    total = x.float() @ w.float().T
    y.copy_(total if bias is None else total + bias.float())
