"""`magnitude_histogram` in Triton: atomic counts in device memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit(do_not_specialize=["prefix"])
def _magnitude_histogram(
    counts, x, base, prefix, size, has_base: tl.constexpr, has_prefix: tl.constexpr, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    counted = at < size
    difference = tl.load(x + at, mask=counted, other=0.0).to(tl.float32)
    if has_base:
        difference = difference - tl.load(base + at, mask=counted, other=0.0).to(tl.float32)
    bits = difference.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    key = bits >> 16
    if has_prefix:
        counted = counted & (key == prefix)
        key = bits & 0xFFFF
    untouched = counted & (key == 0)  # so many that their atomic additions would wait for each other
    tl.atomic_add(counts, tl.sum(untouched.to(tl.int32), axis=0).to(tl.int64), sem="relaxed")
    tl.atomic_add(counts + key, tl.full([block], 1, tl.int64), mask=counted & (key != 0), sem="relaxed")


def magnitude_histogram(out, x, base, prefix):
    """See `graftwork.kernels.magnitude_histogram`."""
    counts = torch.zeros(out.shape, dtype=out.dtype, device=x.device)
    size = x.numel()
    if size:
        _magnitude_histogram[(triton.cdiv(size, BLOCK),)](
            counts,
            x,
            x if base is None else base,
            0 if prefix is None else prefix,
            size,
            has_base=base is not None,
            has_prefix=prefix is not None,
            block=BLOCK,
            enable_fp_fusion=False,
        )
    out.copy_(counts)
