"""`nth_equal` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.kernels.magnitude_histogram.reference import magnitude_bits


def nth_equal(x: Tensor, base: Tensor | None, bits: int, n: int) -> int:
    """See `graftwork.kernels.nth_equal`."""
    found = torch.nonzero(magnitude_bits(x, base) == bits).reshape(-1)
    return int(found[n]) if n < found.numel() else -1 - found.numel()
