"""`lora_shrink` in Triton: items of tokens, ranks and a part of the width, then the parts added up in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graftwork.kernels.lora_shrink.work import TILE_TOKENS, parts, tiles

BLOCK_RANK = 16
BLOCK_IN = 128
SPLIT_IN = 1024
"""Inputs of one partial sum. It depends on nothing else, so that neither does the order of a token's sum."""
FEW = tl.constexpr(4)
PROGRAMS = 4 * 132


@triton.jit
def _partial(
    partial, x, a, start, rank, slot, first, length, part, count, tokens, width, max_rank,
    block_tokens: tl.constexpr, block_rank: tl.constexpr, block_in: tl.constexpr, split_in: tl.constexpr,
    widen: tl.constexpr,
):  # fmt: skip
    splits = tl.cdiv(width, split_in)
    items = tl.load(count) * splits
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        tile = item // splits
        split = (item % splits).to(tl.int64)
        t0 = tl.load(first + tile).to(tl.int64)
        n = tl.load(length + tile)
        s = tl.load(slot + t0).to(tl.int64)
        r = tl.load(part + tile) * block_rank + tl.arange(0, block_rank)  # [block_rank]
        own = r < tl.load(rank + s)
        row = tl.load(start + s).to(tl.int64) + r
        begin = split * split_in
        end = tl.minimum(begin + split_in, width)
        into = partial + split * tokens * max_rank
        if n <= FEW:
            for t in range(n):
                total = tl.zeros([block_rank], tl.float32)
                for at in range(begin, end, block_in):
                    i = at + tl.arange(0, block_in)
                    xs = tl.load(x + (t0 + t) * width + i, mask=i < end, other=0.0).to(tl.float32)
                    inside = own[:, None] & (i < end)[None, :]
                    rows = tl.load(a + row[:, None] * width + i[None, :], mask=inside, other=0.0).to(tl.float32)
                    total += tl.sum(rows * xs[None, :], axis=1)
                tl.store(into + (t0 + t) * max_rank + r, total, mask=own)
        else:
            k = tl.arange(0, block_tokens)
            mine = k < n
            token = t0 + k
            sums = tl.zeros([block_tokens, block_rank], tl.float32)
            for at in range(begin, end, block_in):
                i = at + tl.arange(0, block_in)
                inside = mine[:, None] & (i < end)[None, :]
                xs = tl.load(x + token[:, None] * width + i[None, :], mask=inside, other=0.0)
                inside = own[None, :] & (i < end)[:, None]
                rows = tl.load(a + row[None, :] * width + i[:, None], mask=inside, other=0.0)
                if widen:
                    sums = tl.dot(xs.to(tl.float32), rows.to(tl.float32), sums, input_precision="ieee")
                else:
                    sums = tl.dot(xs, rows, sums, input_precision="ieee")
            inside = mine[:, None] & own[None, :]
            tl.store(into + token[:, None] * max_rank + r[None, :], sums, mask=inside)


@triton.jit
def _total(h, partial, rank, slot, tokens, splits, max_rank, block_rank: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * block_rank + tl.arange(0, block_rank)
    s = tl.load(slot + t).to(tl.int64)
    total = tl.zeros([block_rank], tl.float32)
    if s >= 0:
        own = r < tl.load(rank + s)
        for split in range(splits):
            at = partial + (split * tokens + t) * max_rank + r
            total += tl.load(at, mask=own, other=0.0)
    tl.store(h + t * max_rank + r, total, mask=r < max_rank)


def lora_shrink(h, x, a, start, rank, slot):
    """See `graftwork.kernels.lora_shrink`."""
    tokens, max_rank = h.shape
    width = x.shape[1]
    if not h.numel():
        return
    work = tiles(slot)
    done = torch.arange(work.most, device=slot.device) < work.count
    ranks = torch.where(done, rank[slot[work.first.long()].long().clamp(min=0)], 0)
    blocks = triton.cdiv(max_rank, BLOCK_RANK)
    items = parts(work, ((ranks + BLOCK_RANK - 1) // BLOCK_RANK).int(), blocks)
    splits = triton.cdiv(width, SPLIT_IN)
    partial = torch.empty((splits, tokens, max_rank), dtype=torch.float32, device=x.device)
    widen = x.dtype != a.dtype or not x.is_cuda  # the interpreter multiplies the bits of bfloat16
    grid = (min(PROGRAMS, items.most * splits),)
    _partial[grid](
        partial, x, a, start, rank, slot, items.first, items.tokens, items.part, items.count, tokens, width, max_rank,
        TILE_TOKENS, BLOCK_RANK, BLOCK_IN, SPLIT_IN, widen, enable_fp_fusion=True,
    )  # fmt: skip
    _total[(tokens, blocks)](h, partial, rank, slot, tokens, splits, max_rank, BLOCK_RANK, enable_fp_fusion=True)
