"""Masked task vectors, combined in one pass: the heart of DARE, DELLA and Model Breadcrumbs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from graftwork.kernels.arrays import Array, check_counts, check_output, check_slices, is_array
from graftwork.kernels.dispatch import kernel
from graftwork.kernels.dtypes import safetensors_name
from graftwork.kernels.philox import check_stream
from graftwork.kernels.rank_chances import check_rows
from graftwork.kernels.ties_combine import KEEP_EQUAL

Vote = Literal["none", "weighted", "unweighted"]
Divide = Literal["none", "weights", "signed_weights"]

VOTES = ("none", "weighted", "unweighted")
DIVIDES = ("none", "weights", "signed_weights")
LARGEST = 0x7FFFFFFF
"""The pattern that no magnitude is above."""


class ByRank(NamedTuple):
    """Chances by the rank of an element's |d| in its row of `width` elements, as `rank_chances` finds them."""

    low: float
    high: float
    width: int


class Mask(NamedTuple):
    """What is kept of one input's difference d from the base, and what it is multiplied by.

    An element at flat position p stands above a cut (bits, cutoff) when the float32 pattern of |d| is above `bits`, or
    equals it and p < cutoff. It is kept when it stands above the floor and not above the ceiling, and when its number
    in [0, 1), from the stream `key` of `philox` at p, is below its chance.
    """

    floor: int = 0
    floor_cutoff: int = KEEP_EQUAL
    ceiling: int = LARGEST
    ceiling_cutoff: int = 0
    chance: float | Array | ByRank = 1.0
    """One probability of being kept; or float32 [elements], contiguous, one for each; or by rank, of whole rows."""
    key: int = 0
    factor: float | None = 1.0
    """None stands for one over the element's chance."""


@kernel
def sparse_combine(
    out: Array,
    base: Array,
    inputs: Sequence[Array],
    weights: Sequence[float],
    masks: Sequence[Mask],
    offset: int,
    *,
    scale: float = 1.0,
    vote: Vote = "none",
    divide: Divide = "none",
) -> None:
    """Write `base + scale * value`, where `value` combines the masked differences.

    out, base: any shape, F64 F32 F16 BF16; out may be base or one of the inputs
    inputs:    one or more of the shape of out
    weights:   one per input
    masks:     one per input
    offset:    flat position in the whole tensor of the first element of these slices, 0 or more

    For element j, d_i = inputs[i][j] - base[j]; where mask i keeps it, k_i = factor_i * d_i, or d_i / chance_i[j] where
    the factor is None and elements have chances of their own; elsewhere k_i = d_i - d_i, which is 0, and NaN where d_i
    is not finite, so that no mask hides a broken input. Then
        value = sum_i weights[i] * k_i     vote="none"
        value as in `ties_combine` of the kept k_i, with its votes and these divisors; a draw elects +1

    A uniform number is the high 24 bits of a word times 2**-24. Every value is first rounded to float32, sums run from
    left to right, each operation is rounded to float32 and none is contracted: all twins give the same bits.

    Raises ValueError for no inputs, other dtypes, shapes or counts that differ, one chance outside [0, 1] or chances by
    rank outside (0, 1], elements that are not whole rows of these, an unknown option, a negative offset.
    Source: DARE, arXiv:2311.03099; DELLA, arXiv:2406.11617; Model Breadcrumbs, arXiv:2312.06795.
    """
    masks = [Mask(*mask) for mask in masks]
    check_counts(len(inputs), weights=weights, masks=masks)
    check_slices(out=out, base=base, inputs=inputs, chances=[mask.chance for mask in masks if is_array(mask.chance)])
    check_output(out)
    if vote not in VOTES:
        raise ValueError(f"vote is {vote!r}; expected one of {', '.join(VOTES)}")
    if divide not in DIVIDES or (vote == "none" and divide != "none"):
        raise ValueError(f"divide is {divide!r}; expected none, or after a vote weights or signed_weights")
    plain = [_plain(mask, math.prod(out.shape)) for mask in masks]
    for mask in masks:
        check_stream(mask.key, offset)
    sparse_combine.run(out, base, list(inputs), list(weights), plain, offset, scale, vote, divide)


def _plain(mask: Mask, size: int) -> Mask:
    """The mask with one number for its factor, unless elements have chances of their own."""
    chance = mask.chance
    if is_array(chance):
        if safetensors_name(chance.dtype) != "F32":
            raise ValueError(f"a mask's chances are {safetensors_name(chance.dtype)}; expected F32")
        return mask
    if isinstance(chance, Sequence):
        ranked = ByRank(*chance)
        for bound in (ranked.low, ranked.high):
            _checked(bound)
        check_rows(size, ranked.width)
        return mask
    factor = 1 / _checked(chance) if chance != 0 else 1.0
    return mask if mask.factor is not None else mask._replace(factor=factor)


def _checked(chance: object) -> float:
    if not (isinstance(chance, int | float) and 0 < chance <= 1):
        raise ValueError(f"a mask's chance is {chance}; expected a number above 0, at most 1")
    return chance
