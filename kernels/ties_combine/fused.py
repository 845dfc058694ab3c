"""`ties_combine` in Triton: two reads of the inputs, the second from cache."""

from __future__ import annotations

import triton
import triton.language as tl

from graftwork.kernels.arrays import integers

BLOCK = 1024


@triton.jit
def kept(x, at, inside, origin, cuts, i, offset):
    """The difference of input i from the base where it is not trimmed, else 0."""
    threshold, cutoff = tl.load(cuts + 2 * i), tl.load(cuts + 2 * i + 1)
    difference = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - origin
    bits = difference.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    keep = (bits > threshold) | ((bits == threshold) & (offset + at < cutoff))
    return tl.where(keep, difference, 0.0)


@triton.jit(do_not_specialize=["offset"])
def _ties_combine(
    out,
    base,
    inputs,
    weights,
    shares,
    cuts,
    offset,
    scale,
    zero_sign,
    size,
    weighted: tl.constexpr,
    largest: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    ballots = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        ballot = kept(inputs[i], at, inside, origin, cuts, i, offset)
        if weighted:
            ballot = ballot * weights[i]
        ballots = ballots + ballot
    sign = tl.where(ballots > 0, 1.0, tl.where(ballots < 0, -1.0, zero_sign))
    total = tl.zeros([block], tl.float32)
    divisor = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        difference = kept(inputs[i], at, inside, origin, cuts, i, offset)
        term = difference * weights[i]
        ballot = term if weighted else difference
        agrees = ballot * sign > 0
        if largest:
            total = tl.where(agrees & (tl.abs(term) > total), tl.abs(term), total)
        else:
            total = total + tl.where(agrees, term, 0.0)
            divisor = divisor + tl.where(agrees, tl.zeros([block], tl.float32) + shares[i], 0.0)
    value = total * sign if largest else tl.div_rn(total, tl.where(divisor == 0, 1.0, divisor))
    value = tl.where(ballots == ballots, value, ballots)
    tl.store(out + at, (origin + value * scale).to(out.dtype.element_ty), mask=inside)


def ties_combine(out, base, inputs, weights, thresholds, cutoffs, offset, scale, vote, divide, zero_sign):
    """See `graftwork.kernels.ties_combine`."""
    size = out.numel()
    share = {"weights": abs, "signed_weights": float, "count": lambda _: 1.0, "none": lambda _: 0.0, "max": abs}
    _ties_combine[(triton.cdiv(size, BLOCK),)](
        out,
        base,
        tuple(inputs),
        tuple(map(float, weights)),
        tuple(float(share[divide](weight)) for weight in weights),
        integers(list(zip(thresholds, cutoffs, strict=True)), base),
        offset,
        float(scale),
        float(zero_sign),
        size,
        weighted=vote == "weighted",
        largest=divide == "max",
        block=BLOCK,
        enable_fp_fusion=False,
    )
