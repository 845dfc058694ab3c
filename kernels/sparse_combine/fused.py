"""`sparse_combine` in Triton: two reads of the inputs when there is a vote, the second from cache."""

from __future__ import annotations

import triton
import triton.language as tl

from graftwork.kernels.arrays import integers
from graftwork.kernels.philox.fused import halves, uniform
from graftwork.kernels.sparse_combine.reference import own_chances

BLOCK = 1024
SHARES = {"none": lambda _: 0.0, "weights": abs, "signed_weights": float}


@triton.jit
def _above(bits, position, threshold, cutoff):
    return (bits > threshold) | ((bits == threshold) & (position < cutoff))


@triton.jit
def _kept(
    x, at, inside, origin, offset, numbers, chances, chance, factor, drawn: tl.constexpr, own_factor: tl.constexpr
):
    difference = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - origin
    bits = difference.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    position = offset + at
    keep = _above(bits, position, tl.load(numbers), tl.load(numbers + 1))
    keep = keep & ~_above(bits, position, tl.load(numbers + 2), tl.load(numbers + 3))
    kept = difference * factor
    if drawn == 1:
        keep = keep & (uniform(tl.load(numbers + 4), tl.load(numbers + 5), position) < chance)
    if drawn == 2:
        own = tl.load(chances + at, mask=inside, other=1.0)
        keep = keep & (uniform(tl.load(numbers + 4), tl.load(numbers + 5), position) < own)
        if own_factor:
            kept = tl.div_rn(difference, own)
    return tl.where(keep, kept, difference - difference)


@triton.jit(do_not_specialize=["offset"])
def _sparse_combine(
    out,
    base,
    inputs,
    weights,
    shares,
    numbers,
    chances,
    chance,
    factors,
    offset,
    scale,
    size,
    drawn: tl.constexpr,
    own_factors: tl.constexpr,
    vote: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # [block]
    inside = at < size
    origin = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.zeros([block], tl.float32)
    for i in tl.static_range(len(inputs)):
        ballot = _kept(
            inputs[i], at, inside, origin, offset, numbers + 6 * i, chances[i], chance[i], factors[i], drawn[i],
            own_factors[i],
        )  # fmt: skip
        if vote != "unweighted":
            ballot = ballot * weights[i]
        value = value + ballot
    if vote != "none":
        ballots = value
        sign = tl.where(ballots < 0, -1.0, 1.0)
        total = tl.zeros([block], tl.float32)
        divisor = tl.zeros([block], tl.float32)
        for i in tl.static_range(len(inputs)):
            difference = _kept(
                inputs[i], at, inside, origin, offset, numbers + 6 * i, chances[i], chance[i], factors[i], drawn[i],
                own_factors[i],
            )  # fmt: skip
            term = difference * weights[i]
            ballot = difference
            if vote == "weighted":
                ballot = term
            agrees = ballot * sign > 0
            total = total + tl.where(agrees, term, 0.0)
            divisor = divisor + tl.where(agrees, tl.zeros([block], tl.float32) + shares[i], 0.0)
        value = tl.div_rn(total, tl.where(divisor == 0, 1.0, divisor))
        value = tl.where(ballots == ballots, value, ballots)
    tl.store(out + at, (origin + value * scale).to(out.dtype.element_ty), mask=inside)


def sparse_combine(out, base, inputs, weights, masks, offset, scale, vote, divide):
    """See `graftwork.kernels.sparse_combine`."""
    size = out.numel()
    chances = [own_chances(base, x, mask[4]) for x, mask in zip(inputs, masks, strict=True)]
    each = [hasattr(chance, "data_ptr") for chance in chances]
    _sparse_combine[(triton.cdiv(size, BLOCK),)](
        out,
        base,
        tuple(inputs),
        tuple(map(float, weights)),
        tuple(SHARES[divide](weight) for weight in weights),
        integers([(*mask[:4], *halves(mask[5])) for mask in masks], base),
        tuple(chance if own else base for chance, own in zip(chances, each, strict=True)),
        tuple(1.0 if own else float(chance) for chance, own in zip(chances, each, strict=True)),
        tuple(1.0 if mask[6] is None else float(mask[6]) for mask in masks),
        offset,
        float(scale),
        size,
        drawn=tuple(2 if own else int(chance < 1) for chance, own in zip(chances, each, strict=True)),
        own_factors=tuple(mask[6] is None for mask in masks),
        vote=vote,
        block=BLOCK,
        enable_fp_fusion=False,
    )
