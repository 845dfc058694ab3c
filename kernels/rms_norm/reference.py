"""`rms_norm` in plain torch."""

from __future__ import annotations

from torch import Tensor


def rms_norm(y: Tensor, x: Tensor, weight: Tensor, eps: float) -> None:
    """See `graftwork.kernels.rms_norm`."""
    values = x.float()
    normal = values * (values.pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    y.copy_(weight.float() * normal.to(x.dtype).float())
