"""`philox` in Triton, and the words for other kernels."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def words(low_key, high_key, at):
    """The words of the elements at flat positions `at`: uint32 of its shape."""
    counter = at >> 2
    c0 = counter.to(tl.uint32)
    c1 = (counter >> 32).to(tl.uint32)
    c2 = c0 * 0
    c3 = c0 * 0
    k0 = c0 * 0 + low_key.to(tl.uint32)
    k1 = c0 * 0 + high_key.to(tl.uint32)
    for _ in tl.static_range(10):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = second.to(tl.uint32)
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = first.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    lane = at & 3
    return tl.where(lane == 0, c0, tl.where(lane == 1, c1, tl.where(lane == 2, c2, c3)))


@triton.jit
def uniform(low_key, high_key, at):
    """The words as numbers in [0, 1): float32."""
    return (words(low_key, high_key, at) >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


def halves(key):
    """The two words of a key, as int32 whatever they are, so that one compiled kernel serves all keys."""
    return tuple((word ^ 1 << 31) - (1 << 31) for word in (key & 0xFFFFFFFF, key >> 32))


@triton.jit(do_not_specialize=["low_key", "high_key", "offset"])
def _philox(out, low_key, high_key, offset, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    tl.store(out + at, words(low_key, high_key, offset + at).to(tl.int32, bitcast=True), mask=at < size)


def philox(out, key, offset):
    """See `graftwork.kernels.philox`."""
    size = out.numel()
    low, high = halves(key)
    _philox[(triton.cdiv(size, BLOCK),)](out, low, high, offset, size, block=BLOCK, enable_fp_fusion=False)
