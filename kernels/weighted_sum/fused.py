"""`weighted_sum` in Triton: one pass over the inputs."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _term(x, weight, at, inside, origin, has_base: tl.constexpr):
    value = tl.load(x + at, mask=inside).to(tl.float32)
    return (value - origin if has_base else value) * weight


@triton.jit
def _weighted_sum(out, inputs, weights, base, scale, size, has_base: tl.constexpr, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside).to(tl.float32)
    total = _term(inputs[0], weights[0], at, inside, origin, has_base)
    for i in tl.static_range(1, len(inputs)):
        total = total + _term(inputs[i], weights[i], at, inside, origin, has_base)
    total = origin + total * scale if has_base else total * scale
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def weighted_sum(out, inputs, weights, base, scale):
    """See `graftwork.kernels.weighted_sum`."""
    size = out.numel()
    _weighted_sum[(triton.cdiv(size, BLOCK),)](
        out,
        tuple(inputs),
        tuple(map(float, weights)),
        inputs[0] if base is None else base,
        float(scale),
        size,
        has_base=base is not None,
        block=BLOCK,
        enable_fp_fusion=False,
    )
