"""`gram` in Triton, and the sums in float64 that `abs_sum` and `row_gram` share with it.

The 32 lanes of a part stand beside each other and each adds its elements in their order, as the specification has it:
the bits are those of the native twin.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graftwork.kernels.gram import BLOCK

LANES = tl.constexpr(32)
UNROLLED = 16
"""Elements that a lane loads before it adds them, at most."""
FEW = 132
"""Parts for which each has a program of its own."""


@triton.jit
def _difference(x, base, at, inside, has_base: tl.constexpr):
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    return value - tl.load(base + at, mask=inside, other=0.0).to(tl.float32) if has_base else value


@triton.jit
def _part_sums(
    out, mirrored, stride, left, right, base, edges, parts,
    product: tl.constexpr, has_base: tl.constexpr, together: tl.constexpr, unrolled: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64) * together + tl.arange(0, together)  # [together]
    mine = part < parts
    start = tl.load(edges + part, mask=mine, other=0)
    stop = tl.load(edges + part + 1, mask=mine, other=0)
    lane = tl.arange(0, LANES)
    sums = tl.zeros([together, LANES], tl.float64)
    for first in range(0, tl.max(stop - start, axis=0), LANES * unrolled):
        for step in tl.static_range(unrolled):
            at = start[:, None] + first + step * LANES + lane[None, :]
            inside = at < stop[:, None]
            value = _difference(left, base, at, inside, has_base)
            if product:
                value = value.to(tl.float64) * _difference(right, base, at, inside, has_base).to(tl.float64)
            else:
                value = tl.abs(value).to(tl.float64)
            sums += value
    total = tl.zeros([together], tl.float64)
    for number in tl.static_range(LANES):
        total += tl.sum(tl.where(lane[None, :] == number, sums, 0.0), axis=1)
    tl.store(out + part * stride, total, mask=mine)
    tl.store(mirrored + part * stride, total, mask=mine)


def part_products(out, inputs, base, edges):
    """Write to `out` [parts, n, n] the dot products of all pairs of inputs between neighbouring `edges` [parts + 1]."""
    products = torch.empty(out.shape, dtype=out.dtype, device=edges.device)
    for i, left in enumerate(inputs):
        for j, right in enumerate(inputs[: i + 1]):
            _sum_parts(products[:, i, j], products[:, j, i], left, right, base, edges, product=True)
    out.copy_(products)


def part_abs_sums(out, x, base, edges):
    """Write to `out` [parts] the sums of magnitudes between neighbouring `edges` [parts + 1]."""
    sums = torch.empty(out.shape, dtype=out.dtype, device=edges.device)
    _sum_parts(sums, sums, x, x, base, edges, product=False)
    out.copy_(sums)


def _sum_parts(out, mirrored, left, right, base, edges, *, product):
    parts = len(edges) - 1
    together = 1 if parts <= FEW else 16
    if parts:
        lane_length = triton.cdiv(left.numel(), parts * LANES.value)
        _part_sums[(triton.cdiv(parts, together),)](
            out,
            mirrored,
            out.stride(0),
            left,
            right,
            left if base is None else base,
            edges,
            parts,
            product=product,
            has_base=base is not None,
            together=together,
            unrolled=min(UNROLLED, triton.next_power_of_2(lane_length)),
            num_warps=1 if together == 1 else 4,
            enable_fp_fusion=False,
        )


def block_edges(size, device):
    """The edges of the blocks of `size` elements: int64 [blocks + 1]."""
    blocks = triton.cdiv(size, BLOCK)
    return (torch.arange(blocks + 1, device=device) * BLOCK).clamp(max=size)


def gram(out, inputs, base):
    """See `graftwork.kernels.gram`."""
    part_products(out, inputs, base, block_edges(inputs[0].numel(), inputs[0].device))
