"""`nearswap` in plain torch."""

from __future__ import annotations

from torch import Tensor


def nearswap(out: Tensor, base: Tensor, x: Tensor, t: float, scale: float) -> None:
    """See `graftwork.kernels.nearswap`."""
    out.copy_(base.float() + scale * (x.float() - base.float()).clamp(-t, t))
