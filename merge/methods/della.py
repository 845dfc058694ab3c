"""DELLA with the election of TIES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import merge_method
from graftwork.merge.methods.della_linear import DellaLinear


@merge_method("della", space="delta", cites="https://arxiv.org/abs/2406.11617")
@dataclass(frozen=True, slots=True)
class Della(DellaLinear):
    """Drop entries of each task vector at random, small ones more often, rescale, elect signs, average what agrees.

    weight:    the weight of each task vector, in the election and in the average
    density:   the mean probability of keeping an entry; 1 drops nothing, 0 everything
    epsilon:   probabilities reach from density - epsilon (the smallest entry of a row) to density + epsilon (the
               largest); both must lie above 0 and not above 1
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of |weight| of the agreeing entries
    rescale:   divide what is kept by its own probability, so that its expectation is the task vector
    int8_mask: accepted and without effect: masks take no memory here

    The draw of della_linear, then the weighted election and the disjoint mean of ties; a sum of zero elects plus.

    paper: section 3 (drop, elect, fuse), with an unweighted election; its epsilon is twice this one.
    mergekit: one factor that restores the L1 norm instead of 1 / p, and division by the signed sum of the agreeing
    weights, which can be near 0 where weights have both signs (`compat: mergekit` for both).

    Use it in place of ties or dare_ties where several tasks are merged at low density.
    """

    normalize: bool = True
    vote: ClassVar[Vote] = "weighted"
