"""`row_gram` in Triton."""

from __future__ import annotations

import torch

from graftwork.kernels.gram import BLOCK
from graftwork.kernels.gram.fused import part_products


def part_edges(size, columns, offset, device):
    """Where the parts of the elements `offset` .. `offset + size` begin and end, from `offset`: int64 [parts + 1]."""
    ends = [torch.arange(min(step - offset % step, size), size, step, device=device) for step in (columns, BLOCK)]
    return torch.cat([*ends, torch.tensor([0, size], device=device)]).unique()


def row_gram(out, inputs, columns, offset, base):
    """See `graftwork.kernels.row_gram`."""
    part_products(out, inputs, base, part_edges(inputs[0].numel(), columns, offset, inputs[0].device))
