"""`lora_shrink` in Triton: one program a token and a block of ranks."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK_RANK = 16
BLOCK_IN = 128


@triton.jit
def _lora_shrink(h, x, a, start, rank, slot, width, max_rank, block_rank: tl.constexpr, block_in: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * block_rank + tl.arange(0, block_rank)  # [block_rank]
    s = tl.load(slot + t).to(tl.int64)
    total = tl.zeros([block_rank], tl.float32)
    if s >= 0:
        own = r < tl.load(rank + s)
        row = tl.load(start + s).to(tl.int64) + r
        for first in range(0, width, block_in):
            i = first + tl.arange(0, block_in)  # [block_in]
            xs = tl.load(x + t * width + i, mask=i < width, other=0.0).to(tl.float32)
            inside = own[:, None] & (i < width)[None, :]
            rows = tl.load(a + row[:, None] * width + i[None, :], mask=inside, other=0.0).to(tl.float32)
            total += tl.sum(rows * xs[None, :], axis=1)
    tl.store(h + t * max_rank + r, total, mask=r < max_rank)


def lora_shrink(h, x, a, start, rank, slot):
    """See `graftwork.kernels.lora_shrink`."""
    tokens, max_rank = h.shape
    if h.numel():
        grid = (tokens, triton.cdiv(max_rank, BLOCK_RANK))
        _lora_shrink[grid](h, x, a, start, rank, slot, x.shape[1], max_rank, BLOCK_RANK, BLOCK_IN)
