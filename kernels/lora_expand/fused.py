"""`lora_expand` in Triton: items of tokens and columns, over the true rank of their slot."""

from __future__ import annotations

import triton
import triton.language as tl

from graftwork.kernels.lora_shrink.work import TILE_TOKENS, tiles

BLOCK_OUT = 128
BLOCK_RANK = 16
FEW = tl.constexpr(4)
PROGRAMS = 4 * 132


@triton.jit
def _lora_expand(
    y, h, b, start, rank, slot, first, length, count, width, max_rank,
    block_tokens: tl.constexpr, block_rank: tl.constexpr, block_out: tl.constexpr,
):  # fmt: skip
    columns = tl.cdiv(width, block_out)
    items = tl.load(count) * columns
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile = item // columns
        o = (item % columns) * block_out + tl.arange(0, block_out)  # [block_out]
        t0 = tl.load(first + tile).to(tl.int64)
        n = tl.load(length + tile)
        s = tl.load(slot + t0).to(tl.int64)
        own_rank = tl.load(rank + s)
        row0 = tl.load(start + s).to(tl.int64)
        if n <= FEW:
            for t in range(n):
                total = tl.zeros([block_out], tl.float32)
                for at in range(0, own_rank, block_rank):
                    r = at + tl.arange(0, block_rank)
                    inside = (r < own_rank)[:, None] & (o < width)[None, :]
                    rows = tl.load(b + (row0 + r)[:, None] * width + o[None, :], mask=inside, other=0.0).to(tl.float32)
                    weights = tl.load(h + (t0 + t) * max_rank + r, mask=r < own_rank, other=0.0)
                    total += tl.sum(rows * weights[:, None], axis=0)
                where = y + (t0 + t) * width + o
                total += tl.load(where, mask=o < width, other=0.0).to(tl.float32)
                tl.store(where, total.to(y.dtype.element_ty), mask=o < width)
        elif own_rank > 0:
            k = tl.arange(0, block_tokens)
            mine = k < n
            token = t0 + k
            sums = tl.zeros([block_tokens, block_out], tl.float32)
            for at in range(0, own_rank, block_rank):
                r = at + tl.arange(0, block_rank)
                inside = (r < own_rank)[:, None] & (o < width)[None, :]
                rows = tl.load(b + (row0 + r)[:, None] * width + o[None, :], mask=inside, other=0.0).to(tl.float32)
                inside = mine[:, None] & (r < own_rank)[None, :]
                weights = tl.load(h + token[:, None] * max_rank + r[None, :], mask=inside, other=0.0)
                sums = tl.dot(weights, rows, sums, input_precision="ieee")
            where = y + token[:, None] * width + o[None, :]
            inside = mine[:, None] & (o < width)[None, :]
            sums += tl.load(where, mask=inside, other=0.0).to(tl.float32)
            tl.store(where, sums.to(y.dtype.element_ty), mask=inside)


def lora_expand(y, h, b, start, rank, slot):
    """See `graftwork.kernels.lora_expand`."""
    tokens, width = y.shape
    if y.numel() and len(start) and h.shape[1]:
        work = tiles(slot)
        grid = (min(PROGRAMS, tokens * triton.cdiv(width, BLOCK_OUT)),)
        _lora_expand[grid](
            y, h, b, start, rank, slot, work.first, work.tokens, work.count, width, h.shape[1],
            TILE_TOKENS, BLOCK_RANK, BLOCK_OUT, enable_fp_fusion=True,
        )  # fmt: skip
