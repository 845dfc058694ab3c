"""`axis_weighted_sum` in Triton: one pass over the inputs."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _term(x, own, at, inside, origin, has_base: tl.constexpr):
    value = tl.load(x + at, mask=inside).to(tl.float32)
    return own * (value - origin if has_base else value)


@triton.jit
def _axis_weighted_sum(
    out,
    inputs,
    weights,
    groups,
    columns,
    offset,
    base,
    scale,
    size,
    by_row: tl.constexpr,
    has_base: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    position = at + offset
    group = position // columns if by_row else position % columns
    origin = tl.load(base + at, mask=inside).to(tl.float32)
    total = _term(inputs[0], tl.load(weights + group, mask=inside), at, inside, origin, has_base)
    for i in tl.static_range(1, len(inputs)):
        own = tl.load(weights + i * groups + group, mask=inside)
        total = total + _term(inputs[i], own, at, inside, origin, has_base)
    total = origin + total * scale if has_base else total * scale
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def axis_weighted_sum(out, inputs, weights, columns, offset, axis, base, scale):
    """See `graftwork.kernels.axis_weighted_sum`."""
    size = out.numel()
    _axis_weighted_sum[(triton.cdiv(size, BLOCK),)](
        out,
        tuple(inputs),
        weights.to(out.device),
        weights.shape[1],
        columns,
        offset,
        inputs[0] if base is None else base,
        float(scale),
        size,
        by_row=axis == "row",
        has_base=base is not None,
        block=BLOCK,
        enable_fp_fusion=False,
    )
