"""`variance` in Triton: two reads of the inputs, the second from cache."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _variance(out, base, inputs, count, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    counts = tl.zeros([block], tl.float32) + count
    total = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        total = total + (tl.load(inputs[i] + at, mask=inside, other=0.0).to(tl.float32) - origin)
    mean = tl.div_rn(total, counts)
    squares = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        deviation = tl.load(inputs[i] + at, mask=inside, other=0.0).to(tl.float32) - origin - mean
        squares = squares + deviation * deviation
    tl.store(out + at, tl.div_rn(squares, counts), mask=inside)


def variance(out, base, inputs):
    """See `graftwork.kernels.variance`."""
    size = out.numel()
    _variance[(triton.cdiv(size, BLOCK),)](
        out, base, tuple(inputs), float(len(inputs)), size, block=BLOCK, enable_fp_fusion=False
    )
