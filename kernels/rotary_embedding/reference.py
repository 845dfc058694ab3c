"""`rotary_embedding` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_embedding(y: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """See `graftwork.kernels.rotary_embedding`."""
    a, b = x.chunk(2, dim=-1)
    turned = torch.cat((-b, a), dim=-1)
    if x.dtype == torch.float64:
        x, turned, cos, sin = x.float(), turned.float(), cos.float(), sin.float()
    y.copy_(x * cos[:, None] + turned * sin[:, None])
