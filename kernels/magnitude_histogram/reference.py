"""`magnitude_histogram` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude_bits(x: Tensor, base: Tensor | None) -> Tensor:
    """The float32 bit patterns of `|x - base|`: int32 [elements]."""
    difference = x.float() if base is None else x.float() - base.float()
    return difference.abs().reshape(-1).view(torch.int32)


def magnitude_histogram(out: Tensor, x: Tensor, base: Tensor | None, prefix: int | None) -> None:
    """See `graftwork.kernels.magnitude_histogram`."""
    bits = magnitude_bits(x, base)
    keys = bits >> 16 if prefix is None else bits[bits >> 16 == prefix] & 0xFFFF
    out.copy_(torch.bincount(keys, minlength=out.numel()))
