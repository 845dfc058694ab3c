"""`gram` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 65536
LANES = 32


def block_sums(values: Tensor) -> Tensor:
    """Sums of the blocks of flat float64 values, each lane and then the lanes in order: [blocks]."""
    padded = torch.nn.functional.pad(values, (0, -values.numel() % BLOCK))
    lanes = padded.view(-1, BLOCK // LANES, LANES).cumsum(1)[:, -1]  # cumsum adds in order; sum does not say
    return lanes.cumsum(1)[:, -1]


def differences(x: Tensor, base: Tensor | None) -> Tensor:
    """`x - base` subtracted in float32, as flat float64."""
    return (x.float() if base is None else x.float() - base.float()).double().reshape(-1)


def gram(out: Tensor, inputs: Sequence[Tensor], base: Tensor | None) -> None:
    """See `graftwork.kernels.gram`."""
    for i, left in enumerate(inputs):
        for j, right in enumerate(inputs[: i + 1]):
            sums = block_sums(differences(left, base) * differences(right, base))
            out[:, i, j] = sums
            out[:, j, i] = sums
