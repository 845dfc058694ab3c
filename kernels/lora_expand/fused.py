"""`lora_expand` in Triton: one program a token and a block of outputs."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK_OUT = 256


@triton.jit
def _lora_expand(y, h, b, start, rank, slot, width, max_rank, block: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * block + tl.arange(0, block)  # [block]
    s = tl.load(slot + t).to(tl.int64)
    if s >= 0:
        first = tl.load(start + s).to(tl.int64)
        total = tl.zeros([block], tl.float32)
        for r in range(tl.load(rank + s)):
            row = tl.load(b + (first + r) * width + o, mask=o < width, other=0.0).to(tl.float32)
            total += tl.load(h + t * max_rank + r) * row
        at = y + t * width + o
        total += tl.load(at, mask=o < width, other=0.0).to(tl.float32)
        tl.store(at, total.to(y.dtype.element_ty), mask=o < width)


def lora_expand(y, h, b, start, rank, slot):
    """See `graftwork.kernels.lora_expand`."""
    tokens, width = y.shape
    if y.numel():
        grid = (tokens, triton.cdiv(width, BLOCK_OUT))
        _lora_expand[grid](y, h, b, start, rank, slot, width, h.shape[1], BLOCK_OUT)
