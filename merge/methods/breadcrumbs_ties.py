"""Model Breadcrumbs before the election of TIES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import merge_method
from graftwork.merge.methods.breadcrumbs import Breadcrumbs


@merge_method("breadcrumbs_ties", space="delta", cites="https://arxiv.org/abs/2312.06795")
@dataclass(frozen=True, slots=True)
class BreadcrumbsTies(Breadcrumbs):
    """Drop the largest and the smallest entries of each task vector, elect signs, and add up the entries that agree.

    weight:    the weight of each task vector, in the election and in the sum
    density:   the fraction of entries that is kept; 0 drops everything
    gamma:     the fraction of the largest entries that is dropped
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of |weight| of the agreeing entries
    int8_mask: accepted and without effect: masks take no memory here

    The masks of breadcrumbs, then the weighted election of ties; a sum of zero elects plus.

    paper: it adds up without an election; this combination is mergekit's.
    mergekit: as breadcrumbs, and `normalize` divides by the signed sum of the agreeing weights, which can be near 0
    where weights have both signs (`compat: mergekit` for both).

    Use it as breadcrumbs where the fine-tunes disagree in sign.
    """

    vote: ClassVar[Vote] = "weighted"
