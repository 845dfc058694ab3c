"""DARE before the election of TIES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import merge_method
from graftwork.merge.methods.dare_linear import DareLinear


@merge_method("dare_ties", space="delta", cites="https://arxiv.org/abs/2311.03099")
@dataclass(frozen=True, slots=True)
class DareTies(DareLinear):
    """Drop entries of each task vector at random, rescale the rest, elect signs, and add up the entries that agree.

    weight:    the weight of each task vector, in the election and in the sum
    density:   the probability of keeping an entry; 1 drops nothing, 0 everything
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of |weight| of the agreeing entries
    rescale:   divide what is kept by the density, so that its expectation is the task vector
    int8_mask: accepted and without effect: masks take no memory here

    The draw of dare_linear, then per entry the sign of sum w m (x - base) / density is elected, plus where it is 0, and
    what has that sign is added up.

    paper: section 3.3 combines DARE with any merge; with TIES it stands in the place of the trim, and the election is
    unweighted.
    mergekit: `rescale` restores the L1 norm instead of dividing by the density, and `normalize` divides by the signed
    sum of the agreeing weights, which can be near 0 where weights have both signs (`compat: mergekit` for both).

    Use it as dare_linear where the fine-tunes disagree in sign, as those of different tasks do.
    """

    vote: ClassVar[Vote] = "weighted"
