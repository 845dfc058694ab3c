"""`magnitudes_between` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from graftwork.kernels.magnitude_histogram.reference import magnitude_bits


def magnitudes_between(counts: Tensor, values: Tensor, x: Tensor, base: Tensor | None, low: int, high: int) -> None:
    """See `graftwork.kernels.magnitudes_between`."""
    bits = magnitude_bits(x, base)
    between = bits[(bits > low) & (bits < high)]
    equal_to_low = (bits == low).sum() if low < high else 0
    counts.copy_(torch.tensor([(bits > high).sum(), (bits == high).sum(), between.numel(), equal_to_low]))
    kept = between[: values.numel()]
    values[: kept.numel()] = kept.to(values.device)
