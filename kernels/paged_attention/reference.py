"""`paged_attention` in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def paged_attention(
    out: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
) -> None:
    """See `graftwork.kernels.paged_attention`."""
    sequences, query_heads, width = q.shape
    if sequences == 0:
        return
    heads, page = keys.shape[1], keys.shape[3]
    table = pages.long()
    k = keys[table].float()  # [sequences, pages, heads, width, page]
    v = values[table].float()  # [sequences, pages, heads, page, value width]
    k = k.permute(0, 2, 3, 1, 4).reshape(sequences, heads, width, -1)
    v = v.transpose(1, 2).reshape(sequences, heads, table.shape[1] * page, -1)
    positions = torch.arange(k.shape[-1], device=q.device)
    ends = lengths.long()[:, None]
    seen = (positions < ends) & (positions >= (ends - window if window else 0))  # [sequences, positions]
    grouped = q.float().reshape(sequences, heads, query_heads // heads, width) * scale
    scores = (grouped @ k).masked_fill(~seen[:, None, None], -torch.inf)
    # What lies beyond a sequence's end may be anything, NaN too, which a weight of 0 would let through.
    v = v.masked_fill(~seen[:, None, :, None], 0)
    attended = torch.softmax(scores, dim=-1) @ v
    out.copy_(attended.reshape(out.shape))
