"""`paged_store` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def paged_store(keys: Tensor, values: Tensor, key: Tensor, value: Tensor, pages: Tensor, spans: Tensor) -> None:
    """See `graftwork.kernels.paged_store`."""
    counts, lengths = spans.long().T
    owner = torch.repeat_interleave(counts)  # [rows]
    first = counts.cumsum(0) - counts
    position = torch.arange(len(key), device=spans.device) - (first + counts - lengths)[owner]
    owner, position = owner.to(pages.device), position.to(pages.device)
    home, place = pages[owner, position // keys.shape[3]].long(), position % keys.shape[3]
    keys[home, :, :, place] = key
    values[home, :, place] = value
