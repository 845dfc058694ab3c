"""`nearswap` in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _nearswap(out, base, x, t, scale, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside).to(tl.float32)
    difference = tl.load(x + at, mask=inside).to(tl.float32) - origin
    most = tl.zeros_like(origin) + t
    least = most * -1.0  # Triton 3.7 negates by taking from 0, which loses the sign of 0
    step = tl.where(difference > most, most, tl.where(difference < least, least, difference))
    tl.store(out + at, (origin + step * scale).to(out.dtype.element_ty), mask=inside)


def nearswap(out, base, x, t, scale):
    """See `graftwork.kernels.nearswap`."""
    size = out.numel()
    _nearswap[(triton.cdiv(size, BLOCK),)](
        out, base, x, float(t), float(scale), size, block=BLOCK, enable_fp_fusion=False
    )
