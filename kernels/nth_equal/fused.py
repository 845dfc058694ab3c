"""`nth_equal` in Triton: a count by block, then a look into the block that holds the n-th."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graftwork.kernels.magnitudes_between.fused import magnitude_bits
from graftwork.kernels.nth_equal.reference import nth_equal as nth_within

BLOCK = 4096


@triton.jit(do_not_specialize=["wanted"])
def _count(counts, x, base, wanted, size, has_base: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    equal = inside & (magnitude_bits(x, base, at, inside, has_base) == wanted)
    tl.store(counts + tl.program_id(0), tl.sum(equal.to(tl.int32), axis=0))


def nth_equal(x, base, bits, n):
    """See `graftwork.kernels.nth_equal`."""
    size = x.numel()
    if not size:
        return -1
    blocks = triton.cdiv(size, BLOCK)
    counts = torch.empty(blocks, dtype=torch.int32, device=x.device)
    origin = x if base is None else base
    options = {"has_base": base is not None, "block": BLOCK, "enable_fp_fusion": False}
    _count[(blocks,)](counts, x, origin, bits, size, **options)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    if n >= total:
        return -1 - total
    block = int((ends <= n).sum())
    before = int(ends[block]) - int(counts[block])
    within = slice(block * BLOCK, (block + 1) * BLOCK)
    origin = None if base is None else base.reshape(-1)[within]
    return block * BLOCK + nth_within(x.reshape(-1)[within], origin, bits, n - before)
