"""Consensus TIES: the disjoint sum of TIES, without what matters to no task, or to one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.merge.method import Fraction, Number, PerModel, merge_method
from graftwork.merge.methods.ties import Ties
from graftwork.merge.modifiers.consensus import Consensus
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.magnitudes import Cut, LargestMagnitudes, SignMajority


@merge_method("consensus_ties", space="delta", cites="https://arxiv.org/abs/2405.07813")
@dataclass(frozen=True, slots=True)
class ConsensusTies:
    """The disjoint sum of trimmed task vectors, where enough tasks' own masks agree that it matters to them.

    density:     the fraction of entries that TIES keeps of each whole model
    lambda:      one coefficient on the merged task vector; the paper searches 0.1 to 1.0
    mask_lambda: how much of the sum a task must account for to agree; the smaller, the more entries are kept
    min_agree:   how many tasks must agree: 2 drops what matters to no task or to one alone, 1 what matters to none,
                 0 drops nothing

    tau is that of ties with `variant: paper` and `aggregate: sum`. Task t agrees where
    |tau_t| > mask_lambda * |tau - tau_t|, strictly, tau_t being its untrimmed task vector; the result is
    base + lambda * tau where at least min_agree tasks agree, else the base.

    paper: this (section 5), with density 0.2, and mask_lambda chosen for each task from 0.2 to 0.6 by its accuracy.
    mergekit: it has no such method.

    Use it in place of ties for eight tasks or more.
    """

    density: PerModel[Fraction] = (0.2,)
    lambda_: Number = 1.0
    mask_lambda: PerModel[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = (0.4,)
    min_agree: Annotated[int, Field(ge=0)] = 2
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> LargestMagnitudes | SignMajority:
        """The cuts of the whole models, and the majority sign."""
        return self._ties().statistic()

    def element_bytes(self, inputs: int) -> int:
        """What the consensus computes in."""
        return Consensus.element_bytes(inputs)

    def combine(self, out: Array, piece: Slice, measured: Cut | tuple[Cut, int], scale: float) -> None:
        """The disjoint sum of one slice under the consensus."""
        consensus = Consensus(self.min_agree, self.mask_lambda)
        consensus.combine(self._ties(), out, piece, measured, self.lambda_ * scale)

    def _ties(self) -> Ties:
        return Ties(weight=(1.0,) * len(self.density), density=self.density, variant="paper", aggregate="sum")
