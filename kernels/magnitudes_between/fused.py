"""`magnitudes_between` in Triton: one pass counts by block, a second one writes each block's finds to their places."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graftwork.kernels.arrays import integers

BLOCK = 4096


@triton.jit
def magnitude_bits(x, base, at, inside, has_base: tl.constexpr):
    """The float32 patterns of `|x - base|` at these places."""
    difference = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if has_base:
        difference = difference - tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    return difference.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _count(counts, x, base, bounds, size, brackets: tl.constexpr, has_base: tl.constexpr, block: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = program.to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    bits = magnitude_bits(x, base, at, inside, has_base)
    for i in tl.static_range(brackets):
        low, high = tl.load(bounds + 2 * i), tl.load(bounds + 2 * i + 1)
        into = counts + 4 * i * programs + program
        between = (bits > low) & (bits < high)
        tl.store(into, tl.sum((inside & (bits > high)).to(tl.int32), axis=0))
        tl.store(into + programs, tl.sum((inside & (bits == high)).to(tl.int32), axis=0))
        tl.store(into + 2 * programs, tl.sum((inside & between).to(tl.int32), axis=0))
        equal_to_low = (bits == low) & (bits < high)
        tl.store(into + 3 * programs, tl.sum((inside & equal_to_low).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["room"])
def _collect(
    values, room, ends, x, base, bounds, size, brackets: tl.constexpr, has_base: tl.constexpr, block: tl.constexpr
):
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = program.to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    bits = magnitude_bits(x, base, at, inside, has_base)
    for i in tl.static_range(brackets):
        between = inside & (bits > tl.load(bounds + 2 * i)) & (bits < tl.load(bounds + 2 * i + 1))
        found = between.to(tl.int32)
        place = tl.load(ends + i * programs + program) - tl.sum(found, axis=0) + tl.cumsum(found, axis=0) - 1
        tl.store(values + i * room + place, bits, mask=between & (place < room))


def magnitudes_between(counts, values, x, base, lows, highs):
    """See `graftwork.kernels.magnitudes_between`."""
    size, room = x.numel(), values.shape[1]
    blocks = triton.cdiv(size, BLOCK)
    by_block = torch.zeros((len(lows), 4, blocks), dtype=torch.int32, device=x.device)
    arguments = x, x if base is None else base, integers(list(zip(lows, highs, strict=True)), x), size
    options = {"brackets": len(lows), "has_base": base is not None, "block": BLOCK, "enable_fp_fusion": False}
    if size:
        _count[(blocks,)](by_block, *arguments, **options)
    counts.copy_(by_block.sum(2))
    if size and room:
        ends = by_block[:, 2].cumsum(1)
        _collect[(blocks,)](values, room, ends, *arguments, **options)
