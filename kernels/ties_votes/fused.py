"""`ties_votes` in Triton: one pass over the inputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from graftwork.kernels.arrays import integers
from graftwork.kernels.ties_combine.fused import kept

BLOCK = 1024


@triton.jit(do_not_specialize=["offset"])
def _ties_votes(votes, base, inputs, cuts, offset, size, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    ballots = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        ballots = ballots + kept(inputs[i], at, inside, origin, cuts, i, offset)
    signs = (ballots > 0).to(tl.int32) - (ballots < 0).to(tl.int32)
    tl.atomic_add(votes, tl.sum(signs, axis=0).to(tl.int64), sem="relaxed")


def ties_votes(base, inputs, thresholds, cutoffs, offset):
    """See `graftwork.kernels.ties_votes`."""
    votes = torch.zeros(1, dtype=torch.int64, device=base.device)
    size = base.numel()
    cuts = integers(list(zip(thresholds, cutoffs, strict=True)), base)
    _ties_votes[(triton.cdiv(size, BLOCK),)](
        votes, base, tuple(inputs), cuts, offset, size, block=BLOCK, enable_fp_fusion=False
    )
    return int(votes)
