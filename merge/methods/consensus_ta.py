"""Consensus task arithmetic: drop what matters to no task, or to one alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.kernels.consensus_combine import consensus_combine
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("consensus_ta", space="delta", cites="https://arxiv.org/abs/2405.07813")
@dataclass(frozen=True, slots=True)
class ConsensusTaskArithmetic:
    """The sum of the task vectors, where enough tasks' own masks agree that it matters to them.

    lambda:      one coefficient on the merged task vector; the paper searches 0.1 to 1.0
    mask_lambda: how much of the sum a task must account for to agree; the smaller, the more entries are kept
    min_agree:   how many tasks must agree: 2 drops what matters to no task or to one alone, 1 what matters to none,
                 0 drops nothing

    With tau = sum tau_t, task t agrees where |tau_t| > mask_lambda * |tau - tau_t|, strictly; the result is
    base + lambda * tau where at least min_agree tasks agree, else the base. More than there are models gives the base.

    paper: this (section 5), with mask_lambda chosen for each task from 0.2 to 0.6 by its accuracy; 0.4 without data.
    mergekit: it has no such method.

    Use it in place of task_arithmetic for eight tasks or more. For weighted sums, give task_arithmetic the modifier
    `consensus`.
    """

    lambda_: Number = 1.0
    mask_lambda: PerModel[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = (0.4,)
    min_agree: Annotated[int, Field(ge=0)] = 2
    models: ClassVar[tuple[int, int | None]] = (1, None)

    def statistic(self) -> None:
        """Nothing needs to be known beforehand."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """The fused sum, masks and count of one slice."""
        base = piece.against_base()
        consensus_combine(out, base, piece.inputs, None, self.mask_lambda, self.min_agree, self.lambda_ * scale)
