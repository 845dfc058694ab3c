"""`ram_combine` in Triton: one pass over the inputs."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _ram_combine(out, base, inputs, epsilon, boosts, scale, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside).to(tl.float32)
    shared = tl.zeros([block], tl.float32)
    alone = tl.zeros([block], tl.float32)
    many = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        difference = tl.load(inputs[i] + at, mask=inside).to(tl.float32) - origin
        small = tl.abs(difference) <= epsilon  # a NaN is not small
        kept = tl.where(small, 0.0, difference)
        shared = shared + kept
        alone = alone + kept * boosts[i]
        many = many + tl.where(small, 0.0, 1.0)
    mean = tl.div_rn(shared, tl.maximum(many, 1.0))
    merged = tl.where(many == 1.0, alone, mean)
    tl.store(out + at, (origin + merged * scale).to(out.dtype.element_ty), mask=inside)


def ram_combine(out, base, inputs, epsilon, boosts, scale):
    """See `graftwork.kernels.ram_combine`."""
    size = out.numel()
    _ram_combine[(triton.cdiv(size, BLOCK),)](
        out,
        base,
        tuple(inputs),
        float(epsilon),
        tuple(map(float, boosts)),
        float(scale),
        size,
        block=BLOCK,
        enable_fp_fusion=False,
    )
