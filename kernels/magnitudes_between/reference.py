"""`magnitudes_between` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graftwork.kernels.magnitude_histogram.reference import magnitude_bits


def magnitudes_between(
    counts: Tensor, values: Tensor, x: Tensor, base: Tensor | None, lows: Sequence[int], highs: Sequence[int]
) -> None:
    """See `graftwork.kernels.magnitudes_between`."""
    bits = magnitude_bits(x, base)
    for count, room, low, high in zip(counts, values, lows, highs, strict=True):
        between = bits[(bits > low) & (bits < high)]
        equal_to_low = (bits == low).sum() if low < high else 0
        count.copy_(torch.tensor([(bits > high).sum(), (bits == high).sum(), between.numel(), equal_to_low]))
        kept = between[: room.numel()]
        room[: kept.numel()] = kept.to(room.device)
