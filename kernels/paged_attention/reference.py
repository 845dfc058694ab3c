"""`paged_attention` in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  the name every reader knows
from torch import Tensor


def paged_attention(
    out: Tensor, q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, spans: Tensor, scale: float, window: int
) -> None:
    """See `graftwork.kernels.paged_attention`."""
    single, row = [], 0
    for sequence, (count, length) in enumerate(spans.tolist()):
        if count == 1:
            single.append((sequence, row, length))
        else:
            here = slice(row, row + count)
            out[here] = _attend_many(q[here], keys, values, pages[sequence], length, scale, window)
        row += count
    if single:
        sequences, rows, lengths = torch.tensor(single, device=q.device).T
        out[rows] = _attend_singles(q[rows], keys, values, pages[sequences], lengths, scale, window).to(out.dtype)


def _attend_singles(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, lengths: Tensor, scale: float, window: int
) -> Tensor:
    """The newest row of each sequence, all in one product. q: [sequences, query heads, width]"""
    sequences, query_heads, width = q.shape
    heads = keys.shape[1]
    table = pages.long()
    k = keys[table].float()  # [sequences, pages, heads, width, page]
    v = values[table].float()  # [sequences, pages, heads, page, value width]
    k = k.permute(0, 2, 3, 1, 4).reshape(sequences, heads, width, -1)
    v = v.transpose(1, 2).reshape(sequences, heads, k.shape[-1], -1)
    positions = torch.arange(k.shape[-1], device=q.device)
    ends = lengths[:, None]
    seen = (positions < ends) & (positions >= (ends - window if window else 0))  # [sequences, positions]
    grouped = q.float().reshape(sequences, heads, query_heads // heads, width) * scale
    scores = (grouped @ k).masked_fill(~seen[:, None, None], -torch.inf)
    # What lies beyond a sequence's end may be anything, NaN too, which a weight of 0 would let through.
    v = v.masked_fill(~seen[:, None, :, None], 0)
    return (torch.softmax(scores, dim=-1) @ v).reshape(sequences, query_heads, -1)


def _attend_many(
    q: Tensor, keys: Tensor, values: Tensor, pages: Tensor, length: int, scale: float, window: int
) -> Tensor:
    """The last rows of one sequence. q: [rows, query heads, width]

    Query heads that share a key head are its rows, so that keys are never repeated.
    """
    rows, query_heads, width = q.shape
    heads, page = keys.shape[1], keys.shape[3]
    first = max(0, length - rows + 1 - window) // page if window else 0
    table = pages[first : -(-length // page)].long()
    k = keys[table].float().permute(1, 0, 3, 2).flatten(1, 2)[None, :, : length - first * page]
    v = values[table].float().transpose(0, 1).flatten(1, 2)[None, :, : length - first * page]
    columns = torch.arange(first * page, length, device=q.device)
    ahead = columns[len(columns) - rows :, None] - columns
    seen = (ahead >= 0) & (ahead < window) if window else ahead >= 0
    v = v.masked_fill(~seen.any(0)[:, None], 0)
    k = k.masked_fill(~seen.any(0)[:, None], 0)
    folded = q.float().transpose(0, 1).reshape(1, heads, -1, width)
    mask = seen.repeat(query_heads // heads, 1)
    attended = F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=scale)
    return attended.reshape(query_heads, rows, -1).transpose(0, 1)
