"""`row_gram` in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graftwork.kernels.gram.reference import BLOCK, LANES, differences


def part_starts(size: int, columns: int, offset: int) -> list[int]:
    """Where the parts of the elements `offset` .. `offset + size` begin, counted from `offset`."""
    position = torch.arange(offset, offset + size)
    starts = (position % columns == 0) | (position % BLOCK == 0)
    starts[:1] = True
    found: list[int] = starts.nonzero().reshape(-1).tolist()
    return found


def row_gram(out: Tensor, inputs: Sequence[Tensor], columns: int, offset: int, base: Tensor | None) -> None:
    """See `graftwork.kernels.row_gram`."""
    rows = [differences(x, base) for x in inputs]
    size = rows[0].numel()
    starts = part_starts(size, columns, offset)
    for part, (start, stop) in enumerate(zip(starts, [*starts[1:], size], strict=True)):
        for i, left in enumerate(rows):
            for j, right in enumerate(rows[: i + 1]):
                products = left[start:stop] * right[start:stop]
                lanes = torch.nn.functional.pad(products, (0, -products.numel() % LANES)).view(-1, LANES)
                total = lanes.cumsum(0)[-1].cumsum(0)[-1]  # cumsum adds in order; sum does not say
                out[part, i, j] = total
                out[part, j, i] = total
