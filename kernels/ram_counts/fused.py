"""`ram_counts` in Triton: two reads of the inputs, the second from cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _counts(x, at, inside, origin, epsilon):
    difference = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - origin
    return inside & ~(tl.abs(difference) <= epsilon)  # a NaN counts


@triton.jit
def _ram_counts(counts, base, inputs, epsilon, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    many = tl.zeros([block], tl.int32)
    for i in tl.static_range(len(inputs)):
        many += _counts(inputs[i], at, inside, origin, epsilon).to(tl.int32)
    for i in tl.static_range(len(inputs)):
        own = _counts(inputs[i], at, inside, origin, epsilon)
        shared = tl.sum((own & (many > 1)).to(tl.int32), axis=0)
        alone = tl.sum((own & (many == 1)).to(tl.int32), axis=0)
        tl.atomic_add(counts + 2 * i, shared.to(tl.int64), sem="relaxed")
        tl.atomic_add(counts + 2 * i + 1, alone.to(tl.int64), sem="relaxed")


def ram_counts(out, base, inputs, epsilon):
    """See `graftwork.kernels.ram_counts`."""
    counts = torch.zeros(out.shape, dtype=out.dtype, device=base.device)
    size = base.numel()
    if size:
        _ram_counts[(triton.cdiv(size, BLOCK),)](
            counts, base, tuple(inputs), float(epsilon), size, block=BLOCK, enable_fp_fusion=False
        )
    out.copy_(counts)
