"""`consensus_combine` in Triton: two reads of the inputs, the second from cache."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _consensus_combine(
    out, base, inputs, merged, mask_lambdas, min_agree, scale, size, has_merged: tl.constexpr, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.zeros([block], tl.float32)
    if has_merged:
        value = tl.load(merged + at, mask=inside, other=0.0).to(tl.float32)
    else:
        for i in tl.static_range(len(inputs)):
            value = value + (tl.load(inputs[i] + at, mask=inside, other=0.0).to(tl.float32) - origin)
    agreeing = tl.zeros([block], tl.int32)
    for i in tl.static_range(len(inputs)):
        difference = tl.load(inputs[i] + at, mask=inside, other=0.0).to(tl.float32) - origin
        agreeing += (tl.abs(difference) > tl.abs(value - difference) * mask_lambdas[i]).to(tl.int32)
    value = tl.where(agreeing >= min_agree, value, value - value)
    tl.store(out + at, (origin + value * scale).to(out.dtype.element_ty), mask=inside)


def consensus_combine(out, base, inputs, merged, mask_lambdas, min_agree, scale):
    """See `graftwork.kernels.consensus_combine`."""
    size = out.numel()
    _consensus_combine[(triton.cdiv(size, BLOCK),)](
        out,
        base,
        tuple(inputs),
        base if merged is None else merged,
        tuple(map(float, mask_lambdas)),
        min_agree,
        float(scale),
        size,
        has_merged=merged is not None,
        block=BLOCK,
        enable_fp_fusion=False,
    )
